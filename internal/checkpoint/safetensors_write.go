package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Entry is a tensor to be written.
type Entry struct {
	Name  string
	DType DType
	Shape []int
	// Source gives the elements when the tensor's turn comes, in any weight
	// type or in DType; they are converted to DType piece by piece and may
	// be released after.
	Source func() (Tensor, error)
}

// FromFloat32 is a tensor over x, without a copy.
func FromFloat32(shape []int, x []float32) Tensor {
	data, ok := bytesOf(x)
	if !ok {
		data = encode(nil, x, F32)
	}
	return Tensor{DType: F32, Shape: shape, Data: data}
}

// WriteSafetensors writes a safetensors file. Tensors are ordered as Hugging
// Face's own writer does, by falling element size, then by name, so equal
// tensors give equal files. One tensor is held at a time. It does not sync the
// file; a file that could not be completed is removed.
func WriteSafetensors(path string, entries []Entry, metadata map[string]string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, unwrapPath(err))
	}
	err = writeSafetensors(f, entries, metadata)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeSafetensors(w io.Writer, entries []Entry, metadata map[string]string) error {
	order := slices.Clone(entries)
	slices.SortFunc(order, func(a, b Entry) int {
		if a, b := a.DType.Size(), b.DType.Size(); a != b {
			return b - a
		}
		return strings.Compare(a.Name, b.Name)
	})
	header, err := encodeHeader(order, metadata)
	if err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return unwrapPath(err)
	}
	for _, e := range order {
		if err := writeEntry(w, e); err != nil {
			return fmt.Errorf("tensor %s: %w", e.Name, err)
		}
	}
	return nil
}

// encodeHeader returns the length and the JSON header for tensors that follow
// each other in the given order, padded with spaces to a multiple of 8 bytes.
func encodeHeader(entries []Entry, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	b.WriteByte('{')
	comma := ""
	member := func(name string, value any) error {
		k, err := json.Marshal(name)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s%s:%s", comma, k, v)
		comma = ","
		return nil
	}
	if len(metadata) > 0 {
		if err := member("__metadata__", metadata); err != nil {
			return nil, err
		}
	}
	at := 0
	for i, e := range entries {
		if i > 0 && e.Name == entries[i-1].Name {
			return nil, fmt.Errorf("tensor %s: given twice", e.Name)
		}
		size, err := byteSize(e.DType, e.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", e.Name, err)
		}
		shape := e.Shape
		if shape == nil {
			shape = []int{}
		}
		info := struct {
			DType   DType  `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}{e.DType, shape, [2]int{at, at + size}}
		if err := member(e.Name, info); err != nil {
			return nil, err
		}
		at += size
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	header := b.Bytes()
	binary.LittleEndian.PutUint64(header, uint64(len(header)-8))
	return header, nil
}

// piece is the number of elements converted and written at a time.
const piece = 1 << 18

func writeEntry(w io.Writer, e Entry) error {
	t, err := e.Source()
	if err != nil {
		return err
	}
	if !slices.Equal(t.Shape, e.Shape) {
		return fmt.Errorf("shape: expected %v, found %v", e.Shape, t.Shape)
	}
	if t.DType == e.DType {
		_, err := w.Write(t.Data)
		return unwrapPath(err)
	}
	if !t.DType.Weight() || !e.DType.Weight() {
		return fmt.Errorf("dtype: expected F32, F16 or BF16 for both sides, found %s to be written as %s", t.DType, e.DType)
	}
	values := make([]float32, min(piece, t.Len()))
	bytes := make([]byte, len(values)*e.DType.Size())
	for at := 0; at < t.Len(); at += len(values) {
		values = values[:min(len(values), t.Len()-at)]
		bytes = bytes[:len(values)*e.DType.Size()]
		Parallel(len(values), func(lo, hi int) {
			t.decode(values[lo:hi], at+lo)
			size := e.DType.Size()
			encode(bytes[lo*size:lo*size], values[lo:hi], e.DType)
		})
		if i := (Tensor{DType: e.DType, Shape: []int{len(values)}, Data: bytes}).notFinite(); i >= 0 {
			return fmt.Errorf("element %d: %g cannot be written as %s", at+i, values[i], e.DType)
		}
		if _, err := w.Write(bytes); err != nil {
			return unwrapPath(err)
		}
	}
	return nil
}
