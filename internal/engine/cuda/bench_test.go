//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"testing"
	"time"

	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// benchModels are the rows of the paper that are timed, and larger ones.
func benchModels(b *testing.B) map[string]model.Config {
	sized := func(name string) model.Config {
		cfg, err := model.Sized(name)
		if err != nil {
			b.Fatal(err)
		}
		return cfg
	}
	shared := sized("pythia-160m")
	var err error
	if shared.Owner, err = model.ContiguousOwners(12, 6); err != nil {
		b.Fatal(err)
	}
	shared.KVHeads, shared.IntermediateSize = 1, 3809
	return map[string]model.Config{
		"MHA-144": sized("pythia-160m"), "MLKV-6": shared, "410m": sized("pythia-410m"), "1.4b": sized("pythia-1.4b"),
	}
}

// zeros stand for weights whose values do not matter before they are set.
type benchWeights struct{ cfg model.Config }

func (w benchWeights) Float32(name string) ([]float32, error) {
	v := make([]float32, paramOf(w.cfg, name).Size())
	x := uint32(len(name))
	for i := range v {
		x = x*1664525 + 1013904223
		v[i] = (float32(x>>8)/(1<<24) - 0.5) * 0.07
	}
	return v, nil
}

// BenchmarkTrainStep times whole steps of 2048 tokens a row.
func BenchmarkTrainStep(b *testing.B) {
	for _, c := range []struct {
		name, model string
		rows        int
		o           Options
	}{
		{"MHA-144 x32", "MHA-144", 32, Options{}},
		{"MLKV-6 x32", "MLKV-6", 32, Options{}},
		{"MHA-144 x12", "MHA-144", 12, Options{}},
		{"410m x8", "410m", 8, Options{}},
		{"1.4b x8 layer", "1.4b", 8, Options{Recompute: RecomputeLayer}},
	} {
		b.Run(c.name, func(b *testing.B) {
			e := openGPU(b, c.o)
			cfg := benchModels(b)[c.model]
			start := time.Now()
			trainer := newTrainer(b, e, cfg, benchWeights{cfg}, engine.TrainOptions{Rows: c.rows, Length: 2048, Optimizer: testOptimizer})
			b.Logf("ready after %v, %.2f GiB", time.Since(start).Round(time.Millisecond), float64(trainer.Memory().Total())/(1<<30))
			batch := testBatch(cfg, c.rows, 2048, 1)
			step := func() engine.Step {
				if err := trainer.Accumulate(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				s, err := trainer.Update(b.Context(), 1e-4)
				if err != nil {
					b.Fatal(err)
				}
				return s
			}
			first := step()
			for range 3 {
				step()
			}
			b.ResetTimer()
			var last engine.Step
			for b.Loop() {
				last = step()
			}
			tokens := float64(c.rows*2048) * float64(b.N) / b.Elapsed().Seconds()
			b.ReportMetric(tokens, "tokens/s")
			b.ReportMetric(100*tokens*cfg.TrainingFLOPs(2048)/e.Info().Peak, "%MFU")
			b.Logf("loss %.3f, then %.3f", first.Loss, last.Loss)
		})
	}
}
