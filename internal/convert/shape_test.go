package convert

import (
	"testing"

	"mlkv/internal/model"
)

// TestShape: without any weights, the sizes of MLPs that the MLKV authors'
// checkpoints have.
func TestShape(t *testing.T) {
	src, err := model.Sized("pythia-160m")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ layers, heads, intermediate int }{
		{0, 0, 3072}, {12, 4, 3584}, {4, 12, 3584}, {12, 1, 3777}, {4, 3, 3777}, {6, 1, 3809}, {4, 1, 3819}, {2, 1, 3830}, {1, 1, 3835},
	} {
		got, err := Shape(src, Options{Source: "base", KVLayers: c.layers, KVHeads: c.heads, Start: "absorb"})
		if err != nil {
			t.Fatal(err)
		}
		if got.IntermediateSize != c.intermediate || c.heads > 0 && (got.KVHeads != c.heads || got.Owner.Owners() != c.layers) {
			t.Errorf("%d x %d: %+v, want an MLP of %d", c.layers, c.heads, got, c.intermediate)
		}
	}
	if _, err := Shape(src, Options{Source: "base", KVHeads: 5}); err == nil {
		t.Error("5 heads of 12 passed")
	}
}
