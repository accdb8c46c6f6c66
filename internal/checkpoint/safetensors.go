package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"

	"mlkv/internal/ui"
)

// maxHeader is the longest header that the format allows, in bytes.
const maxHeader = 100_000_000

// File is a mapped file of named tensors.
type File struct {
	path     string
	mapping  mapping
	tensors  map[string]Tensor
	metadata map[string]string
}

// OpenSafetensors maps a safetensors file and checks its header against the
// rules of the format
// (https://github.com/huggingface/safetensors, "Format"): no tensor is copied
// or read. Errors carry ui.ExitInput and name the file and the tensor.
func OpenSafetensors(path string) (*File, error) {
	m, err := mapFile(path)
	if err != nil {
		return nil, ui.Inputf("%s: %w", path, err)
	}
	tensors, metadata, err := parseSafetensors(m.data)
	if err != nil {
		return nil, errors.Join(ui.Inputf("%s: %w", path, err), m.close())
	}
	return &File{path: path, mapping: m, tensors: tensors, metadata: metadata}, nil
}

// Path is the file's path as it was opened.
func (f *File) Path() string { return f.path }

// Names lists the tensors in alphabetical order.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.tensors)) }

// Metadata is the free text stored under __metadata__.
func (f *File) Metadata() map[string]string { return f.metadata }

// Tensor returns a tensor by name. Its data is valid until Close.
func (f *File) Tensor(name string) (Tensor, error) {
	t, ok := f.tensors[name]
	if !ok {
		return Tensor{}, ui.Inputf("%s: tensor %s: not in the file, which holds %d others", f.path, name, len(f.tensors))
	}
	return t, nil
}

// Float32 returns the elements of a tensor; see Tensor.Float32.
func (f *File) Float32(name string) ([]float32, error) {
	t, err := f.Tensor(name)
	if err != nil {
		return nil, err
	}
	x, err := t.Float32()
	if err != nil {
		return nil, ui.Inputf("%s: tensor %s: %w", f.path, name, err)
	}
	return x, nil
}

// Close unmaps the file.
func (f *File) Close() error { return f.mapping.close() }

// parseSafetensors reads the header of a file and returns views of its
// tensors.
func parseSafetensors(data []byte) (map[string]Tensor, map[string]string, error) {
	if len(data) < 8 {
		return nil, nil, fmt.Errorf("header: expected at least 8 bytes, found %d (is the file truncated?)", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	switch {
	case n > maxHeader:
		return nil, nil, fmt.Errorf("header length: expected at most %d bytes, found %d (not a safetensors file?)", maxHeader, n)
	case n > uint64(len(data)-8):
		return nil, nil, fmt.Errorf("header length: expected at most the %d bytes that follow, found %d (is the file truncated?)", len(data)-8, n)
	}
	header, body := data[8:8+n], data[8+n:]
	infos, metadata, err := parseHeader(header)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("expected a whole JSON object, found its end")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	if err := checkLayout(infos, len(body)); err != nil {
		return nil, nil, err
	}
	tensors := make(map[string]Tensor, len(infos))
	for _, in := range infos {
		tensors[in.name] = Tensor{DType: in.DType, Shape: in.Shape, Data: body[in.Offsets[0]:in.Offsets[1]:in.Offsets[1]]}
	}
	return tensors, metadata, nil
}

// tensorInfo is what the header says of a tensor.
type tensorInfo struct {
	name    string
	DType   DType `json:"dtype"`
	Shape   []int `json:"shape"`
	Offsets []int `json:"data_offsets"`
}

// parseHeader reads the header's JSON object member by member, so that a name
// that comes twice is seen.
func parseHeader(header []byte) ([]tensorInfo, map[string]string, error) {
	if len(header) == 0 || header[0] != '{' {
		return nil, nil, fmt.Errorf("expected a JSON object that begins with '{' (not a safetensors file?)")
	}
	dec := json.NewDecoder(bytes.NewReader(header))
	if _, err := dec.Token(); err != nil {
		return nil, nil, err
	}
	var infos []tensorInfo
	var metadata map[string]string
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, nil, err
		}
		name := key.(string) // the decoder allows no other keys
		if seen[name] {
			return nil, nil, fmt.Errorf("tensor %s: named twice", name)
		}
		seen[name] = true
		if name == "__metadata__" {
			if err := dec.Decode(&metadata); err != nil {
				return nil, nil, fmt.Errorf("__metadata__: expected texts by name: %w", err)
			}
			continue
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, nil, err
		}
		in, err := parseInfo(name, raw)
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		infos = append(infos, in)
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, nil, fmt.Errorf("expected nothing but spaces after the JSON object")
	}
	return infos, metadata, nil
}

// parseInfo reads one tensor's entry and checks that its shape, type and
// length agree.
func parseInfo(name string, raw []byte) (tensorInfo, error) {
	in := tensorInfo{name: name}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return in, err
	}
	if in.Shape == nil {
		return in, fmt.Errorf("shape: expected a list, found none")
	}
	if len(in.Offsets) != 2 {
		return in, fmt.Errorf("data_offsets: expected 2 numbers, found %d", len(in.Offsets))
	}
	begin, end := in.Offsets[0], in.Offsets[1]
	if begin < 0 || end < begin {
		return in, fmt.Errorf("data_offsets: expected 0 <= begin <= end, found %d and %d", begin, end)
	}
	size, err := byteSize(in.DType, in.Shape)
	if err != nil {
		return in, err
	}
	if size != end-begin {
		return in, fmt.Errorf("data_offsets: expected %d bytes for shape %v of %s, found %d to %d (%d bytes)",
			size, in.Shape, in.DType, begin, end, end-begin)
	}
	return in, nil
}

// byteSize is the number of bytes of a tensor.
func byteSize(d DType, shape []int) (int, error) {
	size := d.Size()
	if size == 0 {
		return 0, fmt.Errorf("dtype: %q is unknown", d)
	}
	for _, n := range shape {
		if n < 0 {
			return 0, fmt.Errorf("shape: expected no negative size, found %v", shape)
		}
	}
	if slices.Contains(shape, 0) {
		return 0, nil
	}
	const most = int(^uint(0) >> 1)
	for _, n := range shape {
		if size > most/n {
			return 0, fmt.Errorf("shape: %v of %s is larger than any memory", shape, d)
		}
		size *= n
	}
	return size, nil
}

// checkLayout reports tensors that overlap, leave holes, or do not end where
// the file does.
func checkLayout(infos []tensorInfo, length int) error {
	order := slices.Clone(infos)
	sort.SliceStable(order, func(i, j int) bool {
		a, b := order[i].Offsets, order[j].Offsets
		return a[0] < b[0] || a[0] == b[0] && a[1] < b[1]
	})
	at := 0
	last := ""
	for _, in := range order {
		begin, end := in.Offsets[0], in.Offsets[1]
		switch {
		case end > length:
			return fmt.Errorf("tensor %s: data_offsets: expected at most %d (the end of the file), found %d (is the file truncated?)", in.name, length, end)
		case begin < at:
			return fmt.Errorf("tensor %s: data_offsets: expected to begin at %d, found %d: it overlaps tensor %s", in.name, at, begin, last)
		case begin > at:
			return fmt.Errorf("tensor %s: data_offsets: expected to begin at %d, found %d: the bytes between belong to no tensor", in.name, at, begin)
		}
		at, last = end, in.name
	}
	if at != length {
		return fmt.Errorf("length: expected %d bytes of tensors as the header says, found %d", at, length)
	}
	return nil
}
