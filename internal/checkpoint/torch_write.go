package checkpoint

import (
	"archive/zip"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// WriteTorch writes a state dict as torch.save does: a zip archive of a pickle
// and of one stored entry for each tensor. Tensors are in the given order. One
// is held at a time. It does not sync the file; a file that could not be
// completed is removed.
func WriteTorch(path string, entries []Entry) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, unwrapPath(err))
	}
	z := zip.NewWriter(f)
	err = writeTorch(z, entries)
	if err = errors.Join(err, z.Close(), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("write %s: %w", path, unwrapPath(err))
	}
	return nil
}

func writeTorch(z *zip.Writer, entries []Entry) error {
	state, err := pickleState(entries)
	if err != nil {
		return err
	}
	for _, e := range []struct {
		name string
		data []byte
	}{{"data.pkl", state}, {"byteorder", []byte("little")}, {"version", []byte("3\n")}} {
		w, err := z.CreateHeader(archived(e.name))
		if err != nil {
			return err
		}
		if _, err := w.Write(e.data); err != nil {
			return err
		}
	}
	for i, e := range entries {
		w, err := z.CreateHeader(archived("data/" + strconv.Itoa(i)))
		if err != nil {
			return err
		}
		if err := writeEntry(w, e); err != nil {
			return fmt.Errorf("tensor %s: %w", e.Name, err)
		}
	}
	return nil
}

// archived is the header of an uncompressed entry, within the one folder that
// PyTorch expects.
func archived(name string) *zip.FileHeader {
	return &zip.FileHeader{Name: "archive/" + name, Method: zip.Store}
}

// pickleState pickles a dict of tensors, each over a storage of its own whose
// key is the tensor's place among entries.
func pickleState(entries []Entry) ([]byte, error) {
	p := newPickler()
	p.WriteString("}(")
	for i, e := range entries {
		class, err := storageClass(e.DType)
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", e.Name, err)
		}
		stride, elements := rowMajor(e.Shape)
		p.text(e.Name)
		p.tensor(class, strconv.Itoa(i), elements, 0, e.Shape, stride)
	}
	p.WriteByte('u')
	return p.end(), nil
}

// storageClass is PyTorch's class for elements of a type.
func storageClass(d DType) (string, error) {
	for class, dtype := range storages {
		if dtype == d {
			return strings.TrimPrefix(string(class), "torch."), nil
		}
	}
	return "", fmt.Errorf("dtype: PyTorch has no storage for %s", d)
}

// rowMajor returns the strides of a contiguous array and its length, all in
// elements.
func rowMajor(shape []int) (stride []int, elements int) {
	stride, elements = make([]int, len(shape)), 1
	for d := len(shape) - 1; d >= 0; d-- {
		stride[d] = elements
		elements *= shape[d]
	}
	return stride, elements
}
