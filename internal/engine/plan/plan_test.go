package plan

import (
	"testing"

	"gorgonia.org/gorgonia"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// TestNoOverlap replays a plan step by step: no result may be overwritten while
// a later step, or the caller, still reads it.
func TestNoOverlap(t *testing.T) {
	cfg := model.Plain(50, 24, 4, 3)
	cfg.RotaryPct = 0.5
	cfg.Owner = model.OwnerMap{0, 0, 2, 0}
	g, err := graph.Build(cfg, graph.Options{Rows: 2, Length: 5, Output: graph.Gradients})
	if err != nil {
		t.Fatal(err)
	}
	results := []*gorgonia.Node{g.Loss}
	for _, p := range cfg.Params() {
		results = append(results, g.Grads[p.Name])
	}
	p, err := New(results, Options{Align: 8})
	if err != nil {
		t.Fatal(err)
	}
	holds := make([]*gorgonia.Node, p.Elements) // whose value stands in each element
	check := func(what string, at Place) {
		if !at.Arena {
			return
		}
		for i := at.Offset; i < at.Offset+at.Size; i++ {
			if holds[i] != at.Root {
				t.Fatalf("%s: element %d holds %v, expected %v", what, i, holds[i], at.Root)
			}
		}
	}
	total := 0
	for _, s := range p.Steps {
		for _, in := range s.In {
			check(s.Node.String(), in)
		}
		if s.Out.Offset%8 != 0 {
			t.Errorf("%v begins at %d, not a multiple of 8", s.Node, s.Out.Offset)
		}
		for i := s.Out.Offset; i < s.Out.Offset+s.Out.Size; i++ {
			holds[i] = s.Node
		}
		total += s.Out.Size
	}
	for _, n := range results {
		check("after the last step", p.Places[n])
	}
	if p.Elements > total*3/4 {
		t.Errorf("the arena takes %d elements of %d results: memory is hardly shared", p.Elements, total)
	}
}
