//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"errors"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// TestPlan: what is planned for a GPU that is not here grows with the batch and
// shrinks with recomputation and bf16, and a teacher adds its weights once.
func TestPlan(t *testing.T) {
	cfg, err := model.Sized("pythia-70m")
	if err != nil {
		t.Fatal(err)
	}
	plan := func(o Options, rows int, d *engine.Distill) engine.Memory {
		t.Helper()
		e, err := Plan(80<<30, o)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if e.Info().Free != 80<<30 {
			t.Errorf("%d bytes are free, want those given", e.Info().Free)
		}
		m, err := e.PlanTrainer(cfg, engine.TrainOptions{Rows: rows, Length: 512, Optimizer: testOptimizer, Distill: d})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Trainer(cfg, nil, engine.TrainOptions{}); !errors.Is(err, engine.ErrAbsent) {
			t.Errorf("a trainer on a GPU that is not here: %v", err)
		}
		return m
	}
	four, eight := plan(Options{}, 4, nil), plan(Options{}, 8, nil)
	parameters := int64(cfg.Parameters())
	if four.Optimizer < 8*parameters || four.Optimizer > 9*parameters || four.Gradients < 4*parameters || four.Weights < 6*parameters {
		t.Errorf("%+v for %d parameters", four, parameters)
	}
	if eight.Activations <= four.Activations || eight.Optimizer != four.Optimizer {
		t.Errorf("eight rows take %+v, four %+v", eight, four)
	}
	if layer, mlp := plan(Options{Recompute: RecomputeLayer}, 8, nil), plan(Options{Recompute: RecomputeMLP}, 8, nil); !(layer.Activations < mlp.Activations && mlp.Activations < eight.Activations) {
		t.Errorf("activations %d, computing MLPs again %d, layers %d", eight.Activations, mlp.Activations, layer.Activations)
	}
	if wide := plan(Options{Float32: true}, 8, nil); wide.Activations <= eight.Activations {
		t.Errorf("activations in float32 take %d bytes, in bf16 %d", wide.Activations, eight.Activations)
	}
	taught := plan(Options{}, 8, &engine.Distill{Weight: 0.5, Temperature: 1, Teacher: cfg})
	if taught.Teacher < 2*parameters || taught.Teacher > 3*parameters || taught.Optimizer != eight.Optimizer {
		t.Errorf("beside a teacher %+v, without %+v", taught, eight)
	}
}
