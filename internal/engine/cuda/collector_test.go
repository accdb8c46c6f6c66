package cuda

import (
	"fmt"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// collectAll are copies of what an engine's collector shows, by layer and name.
func collectAll(t testing.TB, e engine.Engine, cfg model.Config, w engine.Weights, rows, length int, tokens []int32) map[string][]float32 {
	t.Helper()
	c, err := e.(engine.Observer).Collector(cfg, w, rows, length)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	all := map[string][]float32{}
	if err := c.Collect(t.Context(), tokens, func(a engine.Activations) error {
		for name, m := range map[string][]float32{"input": a.Input, "query": a.Query, "key": a.Key, "value": a.Value, "output": a.Output} {
			if m != nil {
				all[fmt.Sprintf("layer %d %s", a.Layer, name)] = append([]float32(nil), m...)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCollectorProgram compares every layer's inner results with the CPU
// engine's.
func TestCollectorProgram(t *testing.T) {
	const rows, length = 2, 6
	for name, cfg := range testModels(t) {
		t.Run(name, func(t *testing.T) {
			w, tokens := randomWeights(cfg, 7), testBatch(cfg, rows, length, 3).Tokens
			p := compileFor(t, cfg, graph.Options{Rows: rows, Length: length, Output: graph.Activations}, "traced")
			x := newMachine(cfg, w, p)
			x.ints[p.tokens] = tokens
			x.run(true)
			want := collectAll(t, cpu.Open(0), cfg, w, rows, length, tokens)
			for i, l := range p.layers {
				for label, m := range map[string]*matrix{"input": l.input, "query": l.query, "key": l.key, "value": l.value, "output": l.output} {
					label = fmt.Sprintf("layer %d %s", i, label)
					if m == nil != (want[label] == nil) {
						t.Errorf("%s: shown %v, want %v", label, m != nil, want[label] != nil)
					} else if m != nil {
						compare(t, label, x.read(m).F32, want[label])
					}
				}
			}
		})
	}
}
