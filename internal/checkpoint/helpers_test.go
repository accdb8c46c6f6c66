package checkpoint

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// small is a model with every kind of tensor, plain or shared.
func small(kvLayers, kvHeads int) model.Config {
	c := model.Plain(40, 24, 5, 6)
	c.RotaryPct = 0.5
	c.KVHeads = kvHeads
	c.Owner, _ = model.ContiguousOwners(c.Layers, kvLayers)
	return c
}

// separateOwners is a model with layers that own keys, values, both and neither.
func separateOwners(kvHeads int) model.Config {
	return small(5, kvHeads).WithOwners(model.OwnerMap{0, 0, 2, 2, 0}, model.OwnerMap{0, 1, 1, 1, 0})
}

// noise is a model's weights that depend on the name and the index only, in
// values that every type holds exactly.
type noise struct{ params map[string]model.Param }

func newNoise(cfg model.Config) noise {
	n := noise{map[string]model.Param{}}
	for _, p := range cfg.Params() {
		n.params[p.Name] = p
	}
	return n
}

func (n noise) Float32(name string) ([]float32, error) {
	p, ok := n.params[name]
	if !ok {
		return nil, fmt.Errorf("no parameter %s", name)
	}
	r := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[len(name)/2])))
	x := make([]float32, p.Size())
	for i := range x {
		x[i] = float32(r.IntN(255)-127) / 64
	}
	return x, nil
}

// folder writes a model folder and returns it.
func folder(t testing.TB, cfg model.Config, o WriteOptions) string {
	t.Helper()
	dir := t.TempDir()
	if err := Write(dir, cfg, newNoise(cfg), o); err != nil {
		t.Fatal(err)
	}
	return dir
}

// refused asserts that err is of the kind that ends with exit code code and
// that its message holds every text of want.
func refused(t *testing.T, err error, code int, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, expected one with %q", want)
	}
	if got := ui.ExitCode(err); got != code {
		t.Errorf("exit code %d, expected %d: %v", got, code, err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("message lacks %q: %v", w, err)
		}
	}
}

func put(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func get(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
