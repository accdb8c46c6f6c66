//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"mlkv/internal/engine/cpu"
)

// TestCollectorMatchesTheCPU compares every layer's inner results.
func TestCollectorMatchesTheCPU(t *testing.T) {
	const rows, length = 3, 40
	for _, mode := range []struct {
		o         Options
		tolerance float64 // of every matrix, relative
	}{{Options{}, 0.02}, {Options{Float32: true}, 1e-5}} {
		e, models := openGPU(t, mode.o), gpuModels(t)
		for _, name := range slices.Sorted(maps.Keys(models)) {
			t.Run(fmt.Sprintf("%s/float32 %v", name, mode.o.Float32), func(t *testing.T) {
				cfg := models[name]
				w := randomWeights(cfg, 7)
				scaleDown(w, cfg)
				for seed := range uint64(2) {
					tokens := testBatch(cfg, rows, length, seed).Tokens
					want := collectAll(t, cpu.Open(0), cfg, w, rows, length, tokens)
					got := collectAll(t, e, cfg, w, rows, length, tokens)
					for label, m := range want {
						if d := relative(got[label], m); len(got[label]) != len(m) || !(d <= mode.tolerance) {
							t.Errorf("%s: %d elements, want %d, deviate by %.2g", label, len(got[label]), len(m), d)
						}
					}
					if len(got) != len(want) {
						t.Errorf("%d matrices, want %d", len(got), len(want))
					}
				}
			})
		}
	}
}
