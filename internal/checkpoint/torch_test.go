package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"mlkv/internal/ui"
)

// stored is an entry of a test archive.
type storedEntry struct {
	name string
	data []byte
}

func archiveOf(t testing.TB, method uint16, entries ...storedEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.CreateHeader(&zip.FileHeader{Name: "archive/" + e.name, Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// state pickles one tensor "w" of three floats through tensor.
func state(write func(p *pickler)) []byte {
	p := newPickler()
	p.global("collections", "OrderedDict")
	p.WriteString(")R(")
	p.text("w")
	write(p)
	p.WriteByte('u')
	return p.end()
}

func floats(x ...float32) []byte {
	var b []byte
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func plainTensor(p *pickler) { p.tensor("FloatStorage", "0", 3, 0, []int{3}, []int{1}) }

func TestTorchTensor(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(p *pickler)
		want  string
	}{
		{"tensor", plainTensor, "[1 2 3]"},
		{"view", func(p *pickler) { p.tensor("FloatStorage", "0", 3, 1, []int{2, 1}, []int{1, 7}) }, "[2 3]"},
		{"half", func(p *pickler) { p.tensor("HalfStorage", "1", 2, 0, []int{2}, []int{1}) }, "[1 -2]"},
		{"bfloat16", func(p *pickler) { p.tensor("BFloat16Storage", "2", 1, 0, nil, nil) }, "[1]"},
		{"parameter", func(p *pickler) {
			p.global("torch._utils", "_rebuild_parameter")
			p.WriteByte('(')
			plainTensor(p)
			p.WriteByte(0x88)
			p.global("collections", "OrderedDict")
			p.WriteString(")RtR")
		}, "[1 2 3]"},
		{"attributes of the dict", func(p *pickler) { plainTensor(p); p.WriteString("u}"); p.text("_metadata"); p.WriteString("}sb(") }, "[1 2 3]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := archiveOf(t, zip.Store, storedEntry{"data.pkl", state(c.write)}, storedEntry{"byteorder", []byte("little")},
				storedEntry{"data/0", floats(1, 2, 3)}, storedEntry{"data/1", []byte{0, 0x3c, 0, 0xc0}}, storedEntry{"data/2", []byte{0x80, 0x3f}})
			f, err := OpenTorch(put(t, t.TempDir(), "x.bin", data))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			x, err := f.Float32("w")
			if err != nil || fmt.Sprint(x) != c.want {
				t.Errorf("w = %v, %v; expected %s", x, err, c.want)
			}
		})
	}
}

func badArchives(t testing.TB) []struct {
	name string
	data []byte
	want string
} {
	pickled := func(data []byte, more ...storedEntry) []byte {
		return archiveOf(t, zip.Store, append([]storedEntry{{"data.pkl", data}}, more...)...)
	}
	tensor := func(write func(p *pickler)) []byte {
		return pickled(state(write), storedEntry{"data/0", floats(1, 2, 3)})
	}
	call := func(module, name, arg string) []byte {
		p := newPickler()
		p.global(module, name)
		p.text(arg)
		p.WriteString("\x85R")
		return pickled(p.end())
	}
	whole := tensor(plainTensor)
	dup := newPickler()
	dup.WriteString("}(")
	for range 2 {
		dup.text("w")
		plainTensor(dup)
	}
	dup.WriteByte('u')
	stackGlobal := newPickler()
	stackGlobal.text("posix")
	stackGlobal.text("system")
	stackGlobal.WriteString("\x93")
	return []struct {
		name string
		data []byte
		want string
	}{
		{"empty file", nil, "expected a zip archive"},
		{"old format", []byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), "expected a zip archive"},
		{"truncated", whole[:len(whole)-10], "is the file truncated?"},
		{"no pickle", archiveOf(t, zip.Store, storedEntry{"data/0", nil}), "entry data.pkl: not in the archive"},
		{"calls os.system", call("os", "system", "touch /tmp/mlkv-was-here"), `refused to load "os.system"`},
		{"calls eval", call("builtins", "eval", "1/0"), `refused to load "builtins.eval"`},
		{"calls by stack", pickled(stackGlobal.end()), `refused to load "posix.system"`},
		{"calls copy_reg", call("copy_reg", "_reconstructor", "x"), `refused to load "copy_reg._reconstructor"`},
		{"calls a storage", call("torch", "FloatStorage", "x"), `refused to call "torch.FloatStorage"`},
		{"named twice", pickled(dup.end(), storedEntry{"data/0", floats(1, 2, 3)}), "tensor w: named twice"},
		{"unknown opcode", pickled([]byte("\x80\x02i")), "opcode 0x69"},
		{"stack underflow", pickled([]byte("\x80\x02R.")), "stack: expected 2 values, found 0"},
		{"truncated pickle", pickled([]byte("\x80\x02X\xff\xff\xff\x7f")), "expected 2147483647 more bytes, found 0"},
		{"no end", pickled([]byte("\x80\x02}")), "is the file truncated?"},
		{"not a dict", pickled([]byte("\x80\x02K\x01.")), "expected a dict of tensors, found int"},
		{"a number for a tensor", tensor(func(p *pickler) { p.integer(1) }), "tensor w: expected a tensor, found int"},
		{"storage missing", tensor(func(p *pickler) { p.tensor("FloatStorage", "7", 3, 0, []int{3}, []int{1}) }), "entry data/7: not in the archive"},
		{"storage too short", tensor(func(p *pickler) { p.tensor("FloatStorage", "0", 4, 0, []int{4}, []int{1}) }), "expected 4 elements of F32, found 12 bytes"},
		{"tensor beyond its storage", tensor(func(p *pickler) { p.tensor("FloatStorage", "0", 3, 2, []int{2}, []int{1}) }), "tensor w: storage"},
		{"negative offset", tensor(func(p *pickler) { p.tensor("FloatStorage", "0", 3, -1, []int{2}, []int{1}) }), "tensor w: offset"},
		{"negative size", tensor(func(p *pickler) { p.tensor("FloatStorage", "0", 3, 0, []int{-3}, []int{1}) }), "no negative size"},
		{"transposed", tensor(func(p *pickler) { p.tensor("FloatStorage", "0", 3, 0, []int{3, 1}, []int{0, 1}) }), "stride: expected row-major order"},
		{"unknown storage", tensor(func(p *pickler) { p.tensor("DoubleStorage", "0", 1, 0, []int{1}, []int{1}) }), `refused to load "torch.DoubleStorage"`},
		{"big-endian", pickled(state(plainTensor), storedEntry{"byteorder", []byte("big")}), "byteorder: expected little"},
		{"compressed", archiveOf(t, zip.Deflate, storedEntry{"data.pkl", state(plainTensor)}, storedEntry{"data/0", floats(1, 2, 3)}), "compression method 8"},
	}
}

func TestBadTorch(t *testing.T) {
	for _, c := range badArchives(t) {
		t.Run(c.name, func(t *testing.T) {
			path := put(t, t.TempDir(), "pytorch_model.bin", c.data)
			_, err := OpenTorch(path)
			refused(t, err, ui.ExitInput, path, c.want)
		})
	}
}

// torchFile writes parameters of a model as torch.save does.
func torchFile(t testing.TB, path string, names []string, w noise) {
	t.Helper()
	var entries []Entry
	for _, name := range names {
		p := w.params[name]
		entries = append(entries, Entry{Name: name, DType: F32, Shape: p.Shape, Source: func() (Tensor, error) { return fetch(w, p) }})
	}
	if err := WriteTorch(path, entries); err != nil {
		t.Fatal(err)
	}
}

// TestTorchFolder reads a shared model from pytorch_model.bin, in one file and
// in shards.
func TestTorchFolder(t *testing.T) {
	cfg := small(2, 3)
	w := newNoise(cfg)
	var names []string
	for _, p := range cfg.Params() {
		names = append(names, p.Name)
	}
	one := t.TempDir()
	config, err := EncodeConfig(cfg, HuggingFace, F32, nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, one, "config.json", config)
	torchFile(t, filepath.Join(one, "pytorch_model.bin"), names, w)

	shards := t.TempDir()
	put(t, shards, "config.json", config)
	index := map[string]string{}
	for i, part := range [][]string{names[:7], names[7:]} {
		name := fmt.Sprintf("pytorch_model-%d-of-2.bin", i+1)
		torchFile(t, filepath.Join(shards, name), part, w)
		for _, n := range part {
			index[n] = name
		}
	}
	putIndex(t, shards, "pytorch_model.bin.index.json", index)

	for _, dir := range []string{one, shards} {
		c := open(t, dir)
		for _, p := range cfg.Params() {
			sameFloats(t, p, c, w)
		}
	}
}

func FuzzPickle(f *testing.F) {
	for _, c := range badArchives(f) {
		if a, err := openArchive(c.data); err == nil {
			if data, err := a.entry("data.pkl"); err == nil {
				f.Add(data)
			}
		}
	}
	f.Add(state(plainTensor))
	f.Fuzz(func(t *testing.T, data []byte) {
		value, err := unpickle(data)
		if err != nil {
			return
		}
		a := &archive{data: data}
		if d, ok := value.(*dict); ok {
			for _, item := range d.items {
				a.tensor(item.value)
			}
		}
	})
}

func FuzzTorch(f *testing.F) {
	for _, c := range badArchives(f) {
		f.Add(c.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tensors, err := parseTorch(data)
		if err != nil {
			return
		}
		for name, tensor := range tensors {
			if tensor.Len()*tensor.DType.Size() != len(tensor.Data) {
				t.Errorf("tensor %s: %d bytes for %d elements of %s", name, len(tensor.Data), tensor.Len(), tensor.DType)
			}
		}
	})
}

func TestTorchIsReadInPlace(t *testing.T) {
	data := archiveOf(t, zip.Store, storedEntry{"data.pkl", state(plainTensor)}, storedEntry{"data/0", floats(1, 2, 3)})
	f, err := OpenTorch(put(t, t.TempDir(), filepath.Base("x.bin"), data))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tensor, err := f.Tensor("w")
	if err != nil {
		t.Fatal(err)
	}
	if !within(tensor.Data, f.mapping.data) {
		t.Error("the tensor's data are a copy")
	}
}
