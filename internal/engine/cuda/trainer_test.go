//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"math"
	"os"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/model"
)

// openGPU opens the first GPU; without one the test is skipped.
func openGPU(t testing.TB, o Options) *Engine {
	t.Helper()
	if err := Available(); err != nil {
		t.Skipf("needs a GPU: %v", err)
	}
	o.Warn = func(s string) { t.Log("warning:", s) }
	e, err := Open(0, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	e.(*Engine).dev.kernels.defines = testDefines()
	if os.Getenv("MLKV_TEST_PRODUCTS") == "plain" {
		usePlainProducts(e.(*Engine).dev)
	}
	return e.(*Engine)
}

func newTrainer(t testing.TB, e engine.Engine, cfg model.Config, w engine.Weights, o engine.TrainOptions) engine.Trainer {
	t.Helper()
	trainer, err := e.Trainer(cfg, w, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := trainer.Close(); err != nil {
			t.Error(err)
		}
	})
	return trainer
}

// gpuModels are models whose shapes the device's kernels have.
func gpuModels(t testing.TB) map[string]model.Config {
	t.Helper()
	list := testModels(t)
	for name, cfg := range list {
		cfg.HiddenSize, cfg.VocabSize, cfg.Heads, cfg.IntermediateSize = 256, 512, 4, 520
		if cfg.KVHeads == 4 || cfg.KVHeads == 2 {
			cfg.KVHeads = min(cfg.KVHeads, cfg.Heads)
		}
		list[name] = cfg
	}
	c := list["plain"]
	c.Heads, c.KVHeads = 8, 8
	list["head size 32"] = c
	c.Heads, c.KVHeads, c.HiddenSize = 4, 4, 320
	list["head size 80"] = c
	c.HiddenSize = 512
	list["head size 128"] = c
	c.Heads, c.KVHeads = 2, 1
	list["head size 256"] = c
	c = list["plain"]
	c.IntermediateSize = 509
	list["odd intermediate size"] = c
	return list
}

// relative is ||got - want|| / ||want||.
func relative(got, want []float32) float64 {
	num, den := 0.0, 0.0
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		num, den = num+d*d, den+float64(want[i])*float64(want[i])
	}
	return math.Sqrt(num / den)
}

// TestGradientsMatchTheCPU compares loss and all gradients with the CPU engine.
// In bf16 the gradients of queries and keys are small differences of rounded
// numbers, so each parameter is held to a wide bound and all together to a
// narrow one.
func TestGradientsMatchTheCPU(t *testing.T) {
	for _, mode := range []struct {
		o               Options
		loss, each, all float64 // relative deviations allowed
	}{
		{Options{}, 2e-4, 0.2, 0.01},
		{Options{Recompute: RecomputeLayer}, 2e-4, 0.2, 0.01},
		{Options{Float32: true}, 1e-5, 1e-4, 1e-5},
	} {
		e := openGPU(t, mode.o)
		for name, cfg := range gpuModels(t) {
			t.Run(fmt.Sprintf("%s/float32 %v recompute %v", name, mode.o.Float32, mode.o.Recompute), func(t *testing.T) {
				const rows, length = 2, 136
				w := randomWeights(cfg, 7)
				scaleDown(w, cfg)
				o := engine.TrainOptions{Rows: rows, Length: length}
				wantStep, want := firstMoments(t, cpu.Open(0), cfg, w, o)
				step, got := firstMoments(t, e, cfg, w, o)
				loss, wantLoss := step.Loss, wantStep.Loss
				if d := math.Abs(loss/wantLoss - 1); !(d <= mode.loss) {
					t.Errorf("loss %v, want %v: deviates by %.2g", loss, wantLoss, d)
				}
				worst, at := 0.0, ""
				for _, p := range cfg.Params() {
					d := relative(got[p.Name], want[p.Name])
					if noSignal(want[p.Name]) {
						continue
					}
					if d > worst || math.IsNaN(d) {
						worst, at = d, p.Name
					}
					if !(d <= mode.each) {
						t.Errorf("gradient of %s deviates by %.2g", p.Name, d)
					}
				}
				all := relative(joined(cfg, got), joined(cfg, want))
				if !(all <= mode.all) {
					t.Errorf("all gradients deviate by %.2g", all)
				}
				t.Logf("loss deviates by %.2g, gradients by %.2g, at most by %.2g (%s), norm %.3g", math.Abs(loss/wantLoss-1), all, worst, at, step.GradNorm)
			})
		}
	}
}

// joined lays a model's gradients one after another.
func joined(cfg model.Config, g map[string][]float32) []float32 {
	var all []float32
	for _, p := range cfg.Params() {
		all = append(all, g[p.Name]...)
	}
	return all
}

// noSignal tells gradients that are zero but for rounding: those of key biases
// without rotary.
func noSignal(g []float32) bool {
	top := float32(0)
	for _, v := range g {
		top = max(top, max(v, -v))
	}
	return top < 1e-4
}

// train makes steps and returns the results and the weights at the end.
func train(t testing.TB, trainer engine.Trainer, cfg model.Config, rows, length, steps, micro int) ([]engine.Step, []float32) {
	t.Helper()
	var list []engine.Step
	for s := range steps {
		for m := range micro {
			if err := trainer.Accumulate(t.Context(), testBatch(cfg, rows, length, uint64(s*micro+m))); err != nil {
				t.Fatal(err)
			}
		}
		step, err := trainer.Update(t.Context(), 1e-3)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, step)
	}
	return list, weightsOf(t, trainer, cfg)
}

func weightsOf(t testing.TB, trainer engine.Trainer, cfg model.Config) []float32 {
	t.Helper()
	var all []float32
	for _, slot := range engine.Slots {
		for _, p := range cfg.Params() {
			v := make([]float32, p.Size())
			if err := trainer.Read(p.Name, slot, v); err != nil {
				t.Fatal(err)
			}
			all = append(all, v...)
		}
	}
	return all
}

var testOptimizer = engine.AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.01, Decay: engine.DecayMatrices, Clip: 1}

// TestTrainerIsDeterministic trains twice, the second time through a restore in
// the middle, and compares every bit.
func TestTrainerIsDeterministic(t *testing.T) {
	e := openGPU(t, Options{})
	cfg := gpuModels(t)["shared"]
	w := randomWeights(cfg, 3)
	o := engine.TrainOptions{Rows: 2, Length: 96, Optimizer: testOptimizer}
	first := newTrainer(t, e, cfg, w, o)
	steps, want := train(t, first, cfg, 2, 96, 6, 2)
	again, got := train(t, newTrainer(t, e, cfg, w, o), cfg, 2, 96, 6, 2)
	for i := range steps {
		if steps[i] != again[i] {
			t.Errorf("step %d: %+v, then %+v", i, steps[i], again[i])
		}
	}
	sameBits(t, got, want)
	if first.Steps() != 6 {
		t.Errorf("%d steps were counted, want 6", first.Steps())
	}
	resumed := newTrainer(t, e, cfg, randomWeights(cfg, 4), o)
	if err := resumed.Restore(6, func(name string, slot engine.Slot) ([]float32, error) {
		v := make([]float32, paramOf(cfg, name).Size())
		return v, first.Read(name, slot, v)
	}); err != nil {
		t.Fatal(err)
	}
	_, want = train(t, first, cfg, 2, 96, 3, 1)
	_, got = train(t, resumed, cfg, 2, 96, 3, 1)
	sameBits(t, got, want)
}

// TestResumeOnTheOtherDevice moves a training from the CPU to the GPU and back: it
// goes on as if it had stayed.
func TestResumeOnTheOtherDevice(t *testing.T) {
	e := openGPU(t, Options{Float32: true})
	cfg := gpuModels(t)["shared"]
	w := randomWeights(cfg, 3)
	scaleDown(w, cfg)
	o := engine.TrainOptions{Rows: 2, Length: 64, Optimizer: testOptimizer}
	move := func(from, to engine.Trainer) {
		t.Helper()
		if err := to.Restore(from.Steps(), func(name string, slot engine.Slot) ([]float32, error) {
			v := make([]float32, paramOf(cfg, name).Size())
			return v, from.Read(name, slot, v)
		}); err != nil {
			t.Fatal(err)
		}
	}
	host, device, stays := newTrainer(t, cpu.Open(0), cfg, w, o), newTrainer(t, e, cfg, w, o), newTrainer(t, cpu.Open(0), cfg, w, o)
	train(t, host, cfg, 2, 64, 3, 1)
	move(host, device)
	train(t, device, cfg, 2, 64, 3, 1)
	move(device, host)
	got, _ := train(t, host, cfg, 2, 64, 3, 1)
	train(t, stays, cfg, 2, 64, 3, 1)
	train(t, stays, cfg, 2, 64, 3, 1)
	want, _ := train(t, stays, cfg, 2, 64, 3, 1)
	if host.Steps() != 9 {
		t.Errorf("%d steps were counted, want 9", host.Steps())
	}
	for i := range want {
		deviations(t, fmt.Sprintf("step %d", i), got[i], want[i], 1e-4)
	}
}

func paramOf(cfg model.Config, name string) model.Param {
	for _, p := range cfg.Params() {
		if p.Name == name {
			return p
		}
	}
	return model.Param{}
}

func sameBits(t testing.TB, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Errorf("element %d of %d: got %v, want %v", i, len(want), got[i], want[i])
			return
		}
	}
}

// TestTrainingFollowsTheCPU compares the losses of some steps, held-out loss
// included.
func TestTrainingFollowsTheCPU(t *testing.T) {
	for name, mode := range map[string]struct {
		o         Options
		tolerance float64
	}{"bf16": {Options{}, 5e-3}, "float32": {Options{Float32: true}, 1e-4}} {
		t.Run(name, func(t *testing.T) {
			e := openGPU(t, mode.o)
			cfg := gpuModels(t)["gqa"]
			w := randomWeights(cfg, 5)
			scaleDown(w, cfg)
			o := engine.TrainOptions{Rows: 2, Length: 64, Optimizer: testOptimizer}
			device, host := newTrainer(t, e, cfg, w, o), newTrainer(t, cpu.Open(0), cfg, w, o)
			got, _ := train(t, device, cfg, 2, 64, 8, 2)
			want, _ := train(t, host, cfg, 2, 64, 8, 2)
			for i := range want {
				if d := math.Abs(got[i].Loss/want[i].Loss - 1); !(d < mode.tolerance) || got[i].Tokens != want[i].Tokens {
					t.Errorf("step %d: %+v, want %+v", i, got[i], want[i])
				}
				if d := math.Abs(got[i].GradNorm/want[i].GradNorm - 1); !(d < 10*mode.tolerance) {
					t.Errorf("step %d: gradient norm %v, want %v", i, got[i].GradNorm, want[i].GradNorm)
				}
			}
			b := testBatch(cfg, 2, 64, 99)
			gotSum, gotN, err := device.Loss(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			wantSum, wantN, err := host.Loss(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			if gotN != wantN || !(math.Abs(gotSum/wantSum-1) < mode.tolerance) {
				t.Errorf("held-out loss %v over %d, want %v over %d", gotSum, gotN, wantSum, wantN)
			}
		})
	}
}

// TestNaNStepChangesNothing gives a step a gradient that is not finite.
func TestNaNStepChangesNothing(t *testing.T) {
	e := openGPU(t, Options{})
	cfg := gpuModels(t)["plain"]
	w := randomWeights(cfg, 6)
	for i := range w[model.EmbedOut] {
		w[model.EmbedOut][i] = float32(math.Inf(1))
	}
	trainer := newTrainer(t, e, cfg, w, engine.TrainOptions{Rows: 2, Length: 64, Optimizer: testOptimizer})
	before := weightsOf(t, trainer, cfg)
	steps, after := train(t, trainer, cfg, 2, 64, 1, 1)
	if finite := func(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }; finite(steps[0].Loss) && finite(steps[0].GradNorm) {
		t.Errorf("the step is taken for a finite one: %+v", steps[0])
	}
	sameBits(t, after, before)
	if trainer.Steps() != 0 {
		t.Errorf("%d steps were counted, want 0", trainer.Steps())
	}
}
