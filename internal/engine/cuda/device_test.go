//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
)

// TestDistillMatchesTheCPU compares losses and gradients beside a teacher with
// the CPU engine's, then the losses of some steps.
func TestDistillMatchesTheCPU(t *testing.T) {
	const rows, length = 2, 72
	for _, mode := range []struct {
		o         Options
		loss, all float64 // relative deviations allowed of losses and of all gradients
	}{
		{Options{}, 2e-3, 0.02},
		{Options{Recompute: RecomputeLayer}, 2e-3, 0.02},
		{Options{Float32: true}, 2e-5, 2e-5},
	} {
		for _, name := range []string{"plain", "shared", "before rotary", "tied", "odd intermediate size"} {
			t.Run(fmt.Sprintf("%s/float32 %v recompute %v", name, mode.o.Float32, mode.o.Recompute), func(t *testing.T) {
				cfg, e := gpuModels(t)[name], openGPU(t, mode.o)
				w, d := randomWeights(cfg, 7), testDistill(cfg.VocabSize, 320, 4)
				scaleDown(w, cfg)
				d.Teacher.IntermediateSize = 509
				d.Weights = randomWeights(d.Teacher, 11)
				scaleDown(d.Weights.(testWeights), d.Teacher)
				o := engine.TrainOptions{Rows: rows, Length: length, Distill: d}
				want, wantGrads := firstMoments(t, cpu.Open(0), cfg, w, o)
				got, gotGrads := firstMoments(t, e, cfg, w, o)
				deviations(t, "gradient step", got, want, mode.loss)
				all := relative(joined(cfg, gotGrads), joined(cfg, wantGrads))
				if !(all <= mode.all) {
					t.Errorf("all gradients deviate by %.2g", all)
				}
				t.Logf("gradients deviate by %.2g", all)

				o.Optimizer = testOptimizer
				device, host := newTrainer(t, e, cfg, w, o), newTrainer(t, cpu.Open(0), cfg, w, o)
				gotSteps, _ := train(t, device, cfg, rows, length, 6, 2)
				wantSteps, _ := train(t, host, cfg, rows, length, 6, 2)
				for i := range wantSteps {
					deviations(t, fmt.Sprintf("step %d", i), gotSteps[i], wantSteps[i], 5*mode.loss)
				}
				// Held-out loss stays the cross-entropy.
				b := testBatch(cfg, rows, length, 99)
				gotSum, _, err := device.Loss(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				wantSum, _, err := host.Loss(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				if !(math.Abs(gotSum/wantSum-1) < 5*mode.loss) {
					t.Errorf("held-out loss %v, want %v", gotSum, wantSum)
				}
			})
		}
	}
}

// deviations compares what a step reports.
func deviations(t *testing.T, what string, got, want engine.Step, tolerance float64) {
	t.Helper()
	for _, v := range []struct {
		name      string
		got, want float64
	}{
		{"loss", got.Loss, want.Loss}, {"cross-entropy", got.CrossEntropy, want.CrossEntropy},
		{"divergence", got.Divergence, want.Divergence}, {"gradient norm", got.GradNorm, want.GradNorm},
	} {
		if d := math.Abs(v.got/v.want - 1); !(d <= tolerance) {
			t.Errorf("%s: %s %.7g, want %.7g: deviates by %.2g", what, v.name, v.got, v.want, d)
		}
	}
	if got.Tokens != want.Tokens {
		t.Errorf("%s: %d positions, want %d", what, got.Tokens, want.Tokens)
	}
}

// TestCollectorMatchesTheCPU compares every layer's inner results.
func TestCollectorMatchesTheCPU(t *testing.T) {
	const rows, length = 3, 40
	for _, mode := range []struct {
		o         Options
		tolerance float64 // of every matrix, relative
	}{{Options{}, 0.02}, {Options{Float32: true}, 1e-5}} {
		models := gpuModels(t)
		for _, name := range slices.Sorted(maps.Keys(models)) {
			t.Run(fmt.Sprintf("%s/float32 %v", name, mode.o.Float32), func(t *testing.T) {
				cfg := models[name]
				w := randomWeights(cfg, 7)
				scaleDown(w, cfg)
				for seed := range uint64(2) {
					tokens := testBatch(cfg, rows, length, seed).Tokens
					want := collectAll(t, cpu.Open(0), cfg, w, rows, length, tokens)
					got := collectAll(t, openGPU(t, mode.o), cfg, w, rows, length, tokens)
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
