package convert

import (
	"fmt"
	"path/filepath"
	"testing"

	"mlkv/internal/model"
)

// TestAuthorsConverter reads what the authors' converter wrote of a float16
// checkpoint and compares our conversion with it, bit by bit. Where heads are
// averaged their tensors become float32, else layers are averaged in float16.
func TestAuthorsConverter(t *testing.T) {
	root := filepath.Join("testdata", "authors")
	for _, name := range []string{"2x1", "2x4"} {
		t.Run(name, func(t *testing.T) {
			want := open(t, filepath.Join(root, name))
			if got := want.Config().SharedKeyRotary; got != model.RotaryBefore {
				t.Errorf("the authors' checkpoint is read with keys shared %s rotary, expected before", got)
			}
			o := Options{Preset: "authors", DType: "float32"}
			fmt.Sscanf(name, "%dx%d", &o.KVLayers, &o.KVHeads)
			got := converted(t, filepath.Join(root, "source"), o)
			if got.Config().SharedKeyRotary != model.RotaryBefore {
				t.Errorf("keys shared %s rotary, expected before", got.Config().SharedKeyRotary)
			}
			equalModels(t, got, want, 0)
		})
	}
}

// TestAuthorsCheckpointConverts takes a checkpoint of the authors further: its
// two owners become one.
func TestAuthorsCheckpointConverts(t *testing.T) {
	source := filepath.Join("testdata", "authors", "2x4")
	src := open(t, source)
	c := converted(t, source, Options{KVLayers: 1, KVHeads: 2, Grow: "none", DType: "float32"})
	if got := c.Config().Owner.String(); got != "0_0_0" {
		t.Errorf("owner map %s, expected 0_0_0", got)
	}
	// Layer 0 owns for itself alone, layer 1 for itself and layer 2.
	const bias = ".bias"
	a := floats(t, src, model.LayerName(0, model.Value)+bias)
	b := floats(t, src, model.LayerName(1, model.Value)+bias)
	got := floats(t, c, model.LayerName(0, model.Value)+bias)
	k := c.Config().HeadSize()
	for h := range 2 {
		for j := range k {
			want := 0.0
			for _, from := range []int{2 * h, 2*h + 1} {
				want += (float64(a[from*k+j]) + 2*float64(b[from*k+j])) / 6
			}
			if v := got[h*k+j]; v != float32(want) {
				t.Errorf("head %d channel %d: %g, expected %g", h, j, v, want)
			}
		}
	}
}
