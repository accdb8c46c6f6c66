package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/ui"
)

func entry(name string, shape []int, x ...float32) Entry {
	return Entry{Name: name, DType: F32, Shape: shape, Source: func() (Tensor, error) { return FromFloat32(shape, x), nil }}
}

func TestSafetensorsRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	entries := []Entry{
		entry("b", []int{2, 2}, 1, 2, 3, 4),
		entry("a", []int{3}, 5, 6, 7),
		{Name: "half", DType: F16, Shape: []int{2}, Source: func() (Tensor, error) { return FromFloat32([]int{2}, []float32{-1, 0.5}), nil }},
		entry("empty", []int{0, 4}),
		entry("scalar", nil, 9),
	}
	if err := WriteSafetensors(path, entries, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	f, err := OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, want := fmt.Sprint(f.Names()), "[a b empty half scalar]"; got != want {
		t.Errorf("names %s, expected %s", got, want)
	}
	for name, want := range map[string]string{"a": "[5 6 7]", "b": "[1 2 3 4]", "half": "[-1 0.5]", "empty": "[]", "scalar": "[9]"} {
		x, err := f.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(x); got != want {
			t.Errorf("%s: %s, expected %s", name, got, want)
		}
	}
	if f.Metadata()["format"] != "pt" {
		t.Errorf("metadata %v", f.Metadata())
	}
	if n := binary.LittleEndian.Uint64(get(t, path)); n%8 != 0 {
		t.Errorf("header of %d bytes, expected a multiple of 8", n)
	}
	_, err = f.Tensor("c")
	refused(t, err, ui.ExitInput, path, "tensor c")
}

func TestSafetensorsIsDeterministic(t *testing.T) {
	var files [2][]byte
	for i := range files {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		a, b := entry("a", []int{1}, 1), entry("b", []int{1}, 2)
		order := []Entry{a, b}
		if i == 1 {
			order = []Entry{b, a}
		}
		if err := WriteSafetensors(path, order, map[string]string{"k": "v", "j": "w"}); err != nil {
			t.Fatal(err)
		}
		files[i] = get(t, path)
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("the order of the entries changed the file")
	}
}

// file makes a safetensors file of a header and some bytes of data.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	return append(b, make([]byte, data)...)
}

var badSafetensors = []struct {
	name string
	data []byte
	want string
}{
	{"empty file", nil, "at least 8 bytes, found 0"},
	{"shorter than its length", []byte{1, 2, 3}, "found 3"},
	{"header length beyond the file", file(`{}`, 0)[:9], "header length"},
	{"header length of a text file", []byte("version https://git-lfs"), "header length"},
	{"no object", file(`[]`, 0), "expected a JSON object"},
	{"broken JSON", file(`{"a":`, 0), "expected a whole JSON object"},
	{"text after the header", file(`{}x`, 0), "nothing but spaces"},
	{"named twice", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "tensor a: named twice"},
	{"unknown field", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}`, 4), "tensor a"},
	{"unknown type", file(`{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}`, 4), `dtype: "F33" is unknown`},
	{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), "shape: expected a list"},
	{"negative shape", file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), "negative"},
	{"fractional shape", file(`{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}`, 4), "tensor a"},
	{"overflowing shape", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}`, 4), "larger than any memory"},
	{"one offset", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}`, 4), "expected 2 numbers, found 1"},
	{"backward offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 4), "0 <= begin <= end"},
	{"negative offset", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, 4), "0 <= begin <= end"},
	{"shape and length disagree", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), "expected 8 bytes for shape [2] of F32, found 0 to 4"},
	{"beyond the end", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 3), "expected at most 3 (the end of the file), found 4"},
	{"overlap", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12), "tensor b: data_offsets: expected to begin at 8, found 4: it overlaps tensor a"},
	{"hole", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "expected to begin at 0, found 4"},
	{"bytes after the tensors", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 5), "expected 4 bytes of tensors as the header says, found 5"},
	{"metadata of numbers", file(`{"__metadata__":{"a":1}}`, 0), "__metadata__"},
}

func TestBadSafetensors(t *testing.T) {
	for _, c := range badSafetensors {
		t.Run(c.name, func(t *testing.T) {
			path := put(t, t.TempDir(), "x.safetensors", c.data)
			_, err := OpenSafetensors(path)
			refused(t, err, ui.ExitInput, path, c.want)
		})
	}
	_, err := OpenSafetensors(filepath.Join(t.TempDir(), "none.safetensors"))
	refused(t, err, ui.ExitInput, "none.safetensors", "no such file")
	_, err = OpenSafetensors(t.TempDir())
	refused(t, err, ui.ExitInput, "expected a regular file")
}

// TestMisalignedTensor reads an F32 tensor that begins at an odd address.
func TestMisalignedTensor(t *testing.T) {
	data := file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}`, 5)
	binary.LittleEndian.PutUint32(data[len(data)-4:], math.Float32bits(1.5))
	f, err := OpenSafetensors(put(t, t.TempDir(), "x.safetensors", data))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if x, err := f.Float32("b"); err != nil || x[0] != 1.5 {
		t.Errorf("b = %v, %v; expected 1.5", x, err)
	}
	_, err = f.Float32("a")
	refused(t, err, ui.ExitInput, "tensor a", "expected F32, F16 or BF16, found U8")
}

func TestWriteRefusals(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []Entry
		want    []string
	}{
		{"twice", []Entry{entry("a", []int{1}, 1), entry("a", []int{1}, 1)}, []string{"tensor a: given twice"}},
		{"shape", []Entry{{Name: "a", DType: F32, Shape: []int{2}, Source: entry("a", []int{1}, 1).Source}}, []string{"tensor a", "expected [2], found [1]"}},
		{"too large for F16", []Entry{{Name: "a", DType: F16, Shape: []int{2}, Source: entry("a", []int{2}, 1, 1e6).Source}}, []string{"tensor a", "element 1", "1e+06", "F16"}},
		{"NaN", []Entry{{Name: "a", DType: BF16, Shape: []int{1}, Source: entry("a", []int{1}, float32(math.NaN())).Source}}, []string{"tensor a", "element 0", "NaN"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.safetensors")
			err := WriteSafetensors(path, c.entries, nil)
			refused(t, err, ui.ExitFailed, append(c.want, path)...)
			if _, err := os.Stat(path); err == nil {
				t.Error("the file was left behind")
			}
		})
	}
}

func FuzzSafetensors(f *testing.F) {
	for _, c := range badSafetensors {
		f.Add(c.data)
	}
	f.Add(file(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  `, 8))
	f.Fuzz(func(t *testing.T, data []byte) {
		tensors, _, err := parseSafetensors(data)
		if err != nil {
			return
		}
		total := 0
		for name, tensor := range tensors {
			if tensor.Len()*tensor.DType.Size() != len(tensor.Data) {
				t.Errorf("tensor %s: %d bytes for %d elements of %s", name, len(tensor.Data), tensor.Len(), tensor.DType)
			}
			if tensor.DType.Weight() {
				if x, err := tensor.Float32(); err != nil || len(x) != tensor.Len() {
					t.Errorf("tensor %s: %d elements, %v", name, len(x), err)
				}
			}
			total += len(tensor.Data)
		}
		if n := 8 + int(binary.LittleEndian.Uint64(data)) + total; n != len(data) {
			t.Errorf("%d of %d bytes belong to no tensor", len(data)-n, len(data))
		}
	})
}

func TestHeaderOfNames(t *testing.T) {
	name := strings.Repeat("ä\"\\<", 10)
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := WriteSafetensors(path, []Entry{entry(name, []int{1}, 1)}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Tensor(name); err != nil {
		t.Error(err)
	}
}
