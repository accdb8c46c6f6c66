//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// benchModels are the rows of the paper that are timed, and larger ones.
func benchModels(b testing.TB) map[string]model.Config {
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

// benchWeights are those of a fresh model, as the PyTorch programs that it is
// timed beside make them: how far the clocks drop depends on the data.
type benchWeights struct{ cfg model.Config }

func (w benchWeights) Float32(name string) ([]float32, error) {
	p := paramOf(w.cfg, name)
	v := make([]float32, p.Size())
	switch r := rand.New(rand.NewPCG(1, uint64(len(name)))); {
	case p.Kind == model.Norm && strings.HasSuffix(name, ".weight"):
		for i := range v {
			v[i] = 1
		}
	case p.Decays():
		// Large arrays repeat their beginning: drawing every element takes long.
		drawn := min(len(v), 1<<20)
		for i := range drawn {
			v[i] = float32(r.NormFloat64()) * 0.02
		}
		for n := drawn; n < len(v); n *= 2 {
			copy(v[n:], v[:n])
		}
	}
	return v, nil
}

// BenchmarkTrainStep times whole steps of 2048 tokens a row.
func BenchmarkTrainStep(b *testing.B) {
	for _, c := range []struct {
		name, model string
		rows        int
		o           Options
		teacher     string // none if empty
	}{
		{"MHA-144 x32", "MHA-144", 32, Options{}, ""},
		{"MLKV-6 x32", "MLKV-6", 32, Options{}, ""},
		{"MHA-144 x12", "MHA-144", 12, Options{}, ""},
		{"MLKV-6 x32 taught by MHA-144", "MLKV-6", 32, Options{}, "MHA-144"},
		{"410m x8", "410m", 8, Options{}, ""},
		{"1.4b x8 mlp", "1.4b", 8, Options{Recompute: RecomputeMLP}, ""},
		{"1.4b x8 layer", "1.4b", 8, Options{Recompute: RecomputeLayer}, ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			e := openGPU(b, c.o)
			cfg := benchModels(b)[c.model]
			o := engine.TrainOptions{Rows: c.rows, Length: 2048, Optimizer: testOptimizer}
			flops := cfg.TrainingFLOPs(2048)
			if teacher, ok := benchModels(b)[c.teacher]; ok {
				o.Distill = &engine.Distill{Weight: 0.5, Temperature: 1, Teacher: teacher, Weights: benchWeights{teacher}}
				flops += teacher.TrainingFLOPs(2048) / 3
			}
			start := time.Now()
			trainer := newTrainer(b, e, cfg, benchWeights{cfg}, o)
			b.Logf("ready after %v, %.2f GiB", time.Since(start).Round(time.Millisecond), float64(trainer.Memory().Total())/(1<<30))
			batch := testBatch(cfg, c.rows, 2048, 1)
			copy(batch.Targets, batch.Tokens[1:]) // every position counts
			batch.Targets[len(batch.Targets)-1] = 0
			// As the training loop does: the result of a step is read while the next
			// one runs.
			late := trainer.(interface {
				Enqueue(context.Context, float64) error
				Collect(context.Context) (engine.Step, error)
			})
			put := func() {
				if err := errors.Join(trainer.Accumulate(b.Context(), batch), late.Enqueue(b.Context(), 1e-4)); err != nil {
					b.Fatal(err)
				}
			}
			collect := func() engine.Step {
				s, err := late.Collect(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				return s
			}
			put()
			first := collect()
			for range 3 {
				put()
				collect()
			}
			// The median of the steps, as the peer's program reports.
			put()
			var times []time.Duration
			start = time.Now()
			for b.Loop() {
				put()
				collect()
				now := time.Now()
				times = append(times, now.Sub(start))
				start = now
			}
			last := collect()
			slices.Sort(times)
			tokens := float64(c.rows*2048) / times[len(times)/2].Seconds()
			b.ReportMetric(tokens, "tokens/s")
			b.ReportMetric(100*tokens*flops/e.Info().Peak, "%MFU")
			b.Logf("loss %.3f, then %.3f", first.Loss, last.Loss)
		})
	}
}

// BenchmarkOperations times every operation of a micro-batch by itself and prints
// what each kind takes, with the rate of the products.
func BenchmarkOperations(b *testing.B) {
	e := openGPU(b, Options{})
	for _, name := range []string{"MHA-144", "MLKV-6"} {
		b.Run(name, func(b *testing.B) {
			cfg := benchModels(b)[name]
			t := newTrainer(b, e, cfg, benchWeights{cfg}, engine.TrainOptions{Rows: 32, Length: 2048, Optimizer: testOptimizer}).(*trainer)
			var rows []operationTime
			for b.Loop() {
				if err := e.dev.gpu.Do(func() (err error) {
					rows, err = timeOperations(t)
					return err
				}); err != nil {
					b.Fatal(err)
				}
			}
			total := 0.0
			for _, r := range rows {
				total += r.ms
			}
			// A benchmark's log is cut after ten lines.
			fmt.Printf("\n%8.3f ms in all\n", total)
			for _, r := range rows {
				fmt.Printf("%8.3f ms %5.1f%% %3d x %s %s\n", r.ms, 100*r.ms/total, r.count, r.name, r.rate())
			}
		})
	}
}

// operationTime sums what operations of one name take.
type operationTime struct {
	name       string
	count      int
	ms         float64
	operations float64 // floating-point operations of products
}

func (r operationTime) rate() string {
	if r.operations == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f TFLOP/s", r.operations/r.ms/1e9)
}

// timeOperations runs a trainer's operations one after another with events
// between them, and its update; slowest first.
func timeOperations(t *trainer) ([]operationTime, error) {
	x, s := t.grads, t.dev.stream
	var names []string
	var flops []float64
	var events []gpu.Event
	mark := func() error {
		e, err := gpu.NewEvent(true)
		if err != nil {
			return err
		}
		events = append(events, e)
		return e.Record(s)
	}
	if err := mark(); err != nil {
		return nil, err
	}
	for _, o := range x.p.ops {
		if err := x.step(o); err != nil {
			return nil, err
		}
		name, n := fmt.Sprintf("%T", o.kind)[len("cuda."):], 0.0
		for _, p := range x.products(o) {
			n += p.Operations()
			if _, ok := o.kind.(product); ok {
				name = "product " + p.String()
			}
		}
		names, flops = append(names, name), append(flops, n)
		if err := mark(); err != nil {
			return nil, err
		}
	}
	if err := t.optimize(); err != nil {
		return nil, err
	}
	names, flops = append(names, "update"), append(flops, 0)
	if err := mark(); err != nil {
		return nil, err
	}
	if err := s.Synchronize(); err != nil {
		return nil, err
	}
	byName := map[string]*operationTime{}
	var list []operationTime
	for i, name := range names {
		ms, err := events[i].Elapsed(events[i+1])
		if err != nil {
			return nil, err
		}
		r := byName[name]
		if r == nil {
			r = &operationTime{name: name}
			byName[name] = r
		}
		r.count++
		r.ms += ms
		r.operations += flops[i]
	}
	for i := range events {
		if err := events[i].Destroy(); err != nil {
			return nil, err
		}
	}
	for _, r := range byName {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b operationTime) int { return cmp.Compare(b.ms, a.ms) })
	return list, nil
}
