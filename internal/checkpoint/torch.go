package checkpoint

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"mlkv/internal/ui"
)

// OpenTorch maps a state dict that torch.save wrote: a zip archive of a pickle
// and of one stored entry for each storage, which is read in place. Nothing of
// the pickle is run. Errors carry ui.ExitInput and name the file and the
// tensor.
func OpenTorch(path string) (*File, error) {
	m, err := mapFile(path)
	if err != nil {
		return nil, ui.Inputf("%s: %w", path, err)
	}
	tensors, err := parseTorch(m.data)
	if err != nil {
		return nil, errors.Join(ui.Inputf("%s: %w", path, err), m.close())
	}
	return &File{path: path, mapping: m, tensors: tensors}, nil
}

// storages maps the storage classes of PyTorch to element types.
var storages = map[global]DType{
	"torch.FloatStorage":    F32,
	"torch.HalfStorage":     F16,
	"torch.BFloat16Storage": BF16,
	"torch.ByteStorage":     U8,
	"torch.BoolStorage":     "BOOL",
}

// maxPickle is the longest pickle read, in bytes; that of a state dict takes
// some hundred bytes a tensor.
const maxPickle = 1 << 26

// archive is the zip file of a state dict.
type archive struct {
	data    []byte
	entries map[string]*zip.File // by name within the archive's one folder
}

func parseTorch(data []byte) (map[string]Tensor, error) {
	a, err := openArchive(data)
	if err != nil {
		return nil, err
	}
	order, err := a.entry("byteorder")
	if err == nil && string(order) != "little" {
		return nil, fmt.Errorf("byteorder: expected little, found %q", order)
	}
	pickled, err := a.entry("data.pkl")
	if err != nil {
		return nil, err
	}
	if len(pickled) > maxPickle {
		return nil, fmt.Errorf("data.pkl: expected at most %d bytes, found %d", maxPickle, len(pickled))
	}
	value, err := unpickle(pickled)
	if err != nil {
		return nil, fmt.Errorf("data.pkl: %w", err)
	}
	state, ok := value.(*dict)
	if !ok {
		return nil, fmt.Errorf("data.pkl: expected a dict of tensors, found %s", kind(value))
	}
	tensors := make(map[string]Tensor, len(state.items))
	for _, item := range state.items {
		name, ok := item.key.(string)
		if !ok {
			return nil, fmt.Errorf("data.pkl: expected tensor names, found %s", kind(item.key))
		}
		if _, ok := tensors[name]; ok {
			return nil, fmt.Errorf("tensor %s: named twice", name)
		}
		t, err := a.tensor(item.value)
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		tensors[name] = t
	}
	return tensors, nil
}

func openArchive(data []byte) (*archive, error) {
	if !bytes.HasPrefix(data, []byte("PK\x03\x04")) {
		return nil, errors.New("expected a zip archive as torch.save writes it since version 1.6, found something else")
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("%w (is the file truncated?)", err)
	}
	a := &archive{data: data, entries: map[string]*zip.File{}}
	for _, f := range z.File {
		_, name, ok := strings.Cut(f.Name, "/")
		if !ok {
			name = f.Name
		}
		if a.entries[name] != nil {
			return nil, fmt.Errorf("entry %s: named twice", name)
		}
		a.entries[name] = f
	}
	return a, nil
}

// entry returns an entry's bytes in place.
func (a *archive) entry(name string) ([]byte, error) {
	f := a.entries[name]
	switch {
	case f == nil:
		return nil, fmt.Errorf("entry %s: not in the archive", name)
	case f.Method != zip.Store:
		return nil, fmt.Errorf("entry %s: expected it stored as torch.save does, found compression method %d", name, f.Method)
	}
	at, err := f.DataOffset()
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("entry %s: %w", name, err)
	}
	size, have := f.UncompressedSize64, uint64(len(a.data))
	if at < 0 || uint64(at) > have || size > have-uint64(at) {
		return nil, fmt.Errorf("entry %s: expected %d bytes at %d, found the end of the file at %d", name, size, at, have)
	}
	return a.data[at : uint64(at)+size], nil
}

// tensor follows the calls that make a tensor down to its storage.
func (a *archive) tensor(v any) (Tensor, error) {
	call, ok := v.(rebuilt)
	if !ok {
		return Tensor{}, fmt.Errorf("expected a tensor, found %s", kind(v))
	}
	if call.function == "torch._utils._rebuild_parameter" {
		// data, requires_grad, hooks
		if len(call.args) < 1 {
			return Tensor{}, errors.New("parameter: expected its data, found nothing")
		}
		if call, ok = call.args[0].(rebuilt); !ok || call.function != "torch._utils._rebuild_tensor_v2" {
			return Tensor{}, fmt.Errorf("parameter: expected a tensor, found %s", kind(v.(rebuilt).args[0]))
		}
	}
	// storage, offset, size, stride, requires_grad, hooks
	if len(call.args) < 4 {
		return Tensor{}, fmt.Errorf("expected storage, offset, size and stride, found %d arguments", len(call.args))
	}
	dtype, data, err := a.storage(call.args[0])
	if err != nil {
		return Tensor{}, err
	}
	offset, ok := call.args[1].(int)
	if !ok || offset < 0 {
		return Tensor{}, fmt.Errorf("offset: expected a number of elements, found %v", call.args[1])
	}
	shape, err := integers(call.args[2])
	if err != nil {
		return Tensor{}, fmt.Errorf("size: %w", err)
	}
	stride, err := integers(call.args[3])
	if err != nil {
		return Tensor{}, fmt.Errorf("stride: %w", err)
	}
	size, err := byteSize(dtype, shape)
	if err != nil {
		return Tensor{}, err
	}
	if !contiguous(shape, stride) {
		return Tensor{}, fmt.Errorf("stride: expected row-major order for shape %v, found %v; save the tensor with .contiguous()", shape, stride)
	}
	if have := len(data) / dtype.Size(); offset > have || size > (have-offset)*dtype.Size() {
		return Tensor{}, fmt.Errorf("storage: expected %d bytes for shape %v of %s from element %d on, found %d elements", size, shape, dtype, offset, have)
	}
	at := offset * dtype.Size()
	return Tensor{DType: dtype, Shape: shape, Data: data[at : at+size : at+size]}, nil
}

// storage finds the entry that a persistent id names:
// ("storage", class, key, location, elements).
func (a *archive) storage(v any) (DType, []byte, error) {
	p, _ := v.(persistent)
	id, ok := p.id.(tuple)
	if !ok || len(id) != 5 || id[0] != "storage" {
		return "", nil, fmt.Errorf("storage: expected a reference to a storage, found %s", kind(v))
	}
	class, _ := id[1].(global)
	key, isText := id[2].(string)
	count, isInt := id[4].(int)
	dtype, isKnown := storages[class]
	if !isText || !isInt || !isKnown || count < 0 {
		return "", nil, fmt.Errorf("storage: expected a class, a key and a size, found %v", id)
	}
	data, err := a.entry("data/" + key)
	if err != nil {
		return "", nil, err
	}
	if len(data)/dtype.Size() < count {
		return "", nil, fmt.Errorf("entry data/%s: expected %d elements of %s, found %d bytes", key, count, dtype, len(data))
	}
	return dtype, data, nil
}

// contiguous reports whether the strides are those of row-major order. The
// stride of a dimension of one element does not matter.
func contiguous(shape, stride []int) bool {
	if len(shape) != len(stride) {
		return false
	}
	if slices.Contains(shape, 0) {
		return true
	}
	want := 1
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] != 1 && stride[i] != want {
			return false
		}
		want *= shape[i]
	}
	return true
}

// integers reads a tuple of integers.
func integers(v any) ([]int, error) {
	t, ok := v.(tuple)
	if !ok {
		return nil, fmt.Errorf("expected a tuple of integers, found %s", kind(v))
	}
	out := make([]int, len(t))
	for i, x := range t {
		n, ok := x.(int)
		if !ok {
			return nil, fmt.Errorf("expected a tuple of integers, found %s within", kind(x))
		}
		out[i] = n
	}
	return out, nil
}

// kind names an unpickled value in Python's terms.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int:
		return "int"
	case float64:
		return "float"
	case string:
		return fmt.Sprintf("the text %.40q", v)
	case tuple:
		return "a tuple"
	case *list:
		return "a list"
	case *dict:
		return "a dict"
	case global:
		return string(v)
	case rebuilt:
		return "the result of " + string(v.function)
	}
	return "something else"
}
