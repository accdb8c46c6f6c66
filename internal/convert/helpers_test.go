package convert

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// streams returns streams whose standard output is kept.
func streams() (ui.Streams, *bytes.Buffer) {
	var out bytes.Buffer
	return ui.Streams{In: strings.NewReader(""), Out: &out, Err: new(bytes.Buffer), Width: 80}, &out
}

// small is a plain model of 6 layers with 6 heads of 4 channels.
func small() model.Config {
	c := model.Plain(40, 24, 6, 6)
	c.RotaryPct, c.MaxPositions = 0.5, 64
	return c
}

// noise is a model's weights, normal numbers seeded by their name.
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
	seed := uint64(0)
	for _, b := range []byte(name) {
		seed = seed*131 + uint64(b)
	}
	r := rand.New(rand.NewPCG(seed, 1))
	x := make([]float32, p.Size())
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x, nil
}

// folder writes a model folder.
func folder(t testing.TB, cfg model.Config, o checkpoint.WriteOptions) string {
	t.Helper()
	dir := t.TempDir()
	if err := checkpoint.Write(dir, cfg, newNoise(cfg), o); err != nil {
		t.Fatal(err)
	}
	return dir
}

// converted runs a conversion and opens the result.
func converted(t testing.TB, source string, o Options) *checkpoint.Checkpoint {
	t.Helper()
	o.Source = source
	o.Output = filepath.Join(t.TempDir(), "out")
	s, _ := streams()
	if err := Run(context.Background(), o, s); err != nil {
		t.Fatal(err)
	}
	return open(t, o.Output)
}

// planned is the result of a conversion in memory.
func planned(t testing.TB, src *checkpoint.Checkpoint, o Options) (model.Config, checkpoint.Weights) {
	t.Helper()
	o.Source, o.Output = src.Dir(), "none"
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(src.Config(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p.dst, newWeights(t.Context(), src, p)
}

func open(t testing.TB, dir string) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func floats(t testing.TB, w checkpoint.Weights, name string) []float32 {
	t.Helper()
	x, err := w.Float32(name)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// equalModels compares two models: their configs exactly, their weights within
// tolerance of the larger magnitude, exactly if it is 0.
func equalModels(t *testing.T, got, want *checkpoint.Checkpoint, tolerance float64) {
	t.Helper()
	g, w := got.Config(), want.Config()
	g.SharedKeyRotary, w.SharedKeyRotary = "", ""
	if fmt.Sprint(g) != fmt.Sprint(w) {
		t.Errorf("config\n%+v, expected\n%+v", g, w)
		return
	}
	worst, where := 0.0, ""
	for _, p := range w.Params() {
		a, b := floats(t, got, p.Name), floats(t, want, p.Name)
		for i := range b {
			d := float64(a[i]) - float64(b[i])
			if d = max(d, -d) / max(1, float64(max(b[i], -b[i]))); d > worst {
				worst, where = d, fmt.Sprintf("%s[%d]: %g, expected %g", p.Name, i, a[i], b[i])
			}
		}
	}
	if worst > tolerance {
		t.Errorf("largest deviation %g: %s", worst, where)
	}
}

// entries lists a folder's content.
func entries(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}
