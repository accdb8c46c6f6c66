//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"math"
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
		e := openGPU(t, mode.o)
		for _, name := range []string{"plain", "shared", "before rotary", "tied", "odd intermediate size"} {
			t.Run(fmt.Sprintf("%s/float32 %v recompute %v", name, mode.o.Float32, mode.o.Recompute), func(t *testing.T) {
				cfg := gpuModels(t)[name]
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
				gotSteps, _ := train(t, device, cfg, rows, length, 4, 2)
				wantSteps, _ := train(t, host, cfg, rows, length, 4, 2)
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
		if d := math.Abs(v.got - v.want); !(d <= tolerance*math.Abs(v.want)) {
			t.Errorf("%s: %s %.7g, want %.7g: deviates by %.2g", what, v.name, v.got, v.want, d/math.Abs(v.want))
		}
	}
	if got.Tokens != want.Tokens {
		t.Errorf("%s: %d positions, want %d", what, got.Tokens, want.Tokens)
	}
}
