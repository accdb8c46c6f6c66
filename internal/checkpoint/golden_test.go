package checkpoint

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"mlkv/internal/golden"
	"mlkv/internal/model"
)

// goldens returns the folders of golden models.
func goldens(t *testing.T) []string {
	var dirs []string
	for _, path := range golden.Find(t, "*/model.safetensors") {
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

func open(t *testing.T, dir string) *Checkpoint {
	t.Helper()
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestGoldenWriteBack writes each golden model as it was read: the result must
// hold the same tensors, byte for byte, under the same names.
func TestGoldenWriteBack(t *testing.T) {
	for _, dir := range goldens(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c := open(t, dir)
			out := t.TempDir()
			err := Write(out, c.Config(), c, WriteOptions{DType: c.DType(), Config: c.ConfigJSON()})
			if err != nil {
				t.Fatal(err)
			}
			sameTensors(t, filepath.Join(out, "model.safetensors"), filepath.Join(dir, "model.safetensors"))
			again := open(t, out)
			if a, b := again.Config(), c.Config(); a.Owner.String() != b.Owner.String() {
				t.Errorf("config: %+v, expected %+v", a, b)
			}
		})
	}
}

func sameTensors(t *testing.T, got, want string) {
	t.Helper()
	g, err := OpenSafetensors(got)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	w, err := OpenSafetensors(want)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if len(g.Names()) != len(w.Names()) {
		t.Errorf("%d tensors, expected %d", len(g.Names()), len(w.Names()))
	}
	for _, name := range w.Names() {
		a, err := g.Tensor(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if b, _ := w.Tensor(name); a.DType != b.DType || !bytes.Equal(a.Data, b.Data) {
			t.Errorf("tensor %s differs", name)
		}
	}
}

// TestGoldenTorch reads the same weights from PyTorch's own file.
func TestGoldenTorch(t *testing.T) {
	compared := 0
	for _, dir := range goldens(t) {
		bin := filepath.Join(dir, "pytorch_model.bin")
		if _, err := os.Stat(bin); err != nil {
			continue
		}
		folder := t.TempDir()
		for _, name := range []string{"config.json", "pytorch_model.bin"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, name), data, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, got := open(t, dir), open(t, folder)
		for _, p := range want.Config().Params() {
			sameFloats(t, p, got, want)
			compared++
		}
	}
	if compared == 0 {
		t.Skip("no golden pytorch_model.bin among the shared models")
	}
}

func sameFloats(t *testing.T, p model.Param, got, want Weights) {
	t.Helper()
	g, err := got.Float32(p.Name)
	if err != nil {
		t.Fatal(err)
	}
	w, err := want.Float32(p.Name)
	if err != nil {
		t.Fatal(err)
	}
	if len(g) != len(w) || len(w) != p.Size() {
		t.Fatalf("%s: %d and %d elements, expected %d", p.Name, len(g), len(w), p.Size())
	}
	for i := range w {
		if g[i] != w[i] {
			t.Fatalf("%s: element %d is %g, expected %g", p.Name, i, g[i], w[i])
		}
	}
}
