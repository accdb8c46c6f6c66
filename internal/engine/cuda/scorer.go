//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"context"
	"errors"
	"fmt"
	"math"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/engine/pack"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// scorer keeps the weights on the device and runs one program of fixed shape
// over streams of tokens. Since the shape never changes, neither do the kernels
// of the products, and a request's score is the same bits in any batch.
type scorer struct {
	e       *Engine
	cfg     model.Config
	size    int // tokens and scored positions of a batch
	x       *executor
	weights *gpu.Arena // masters, then what the products read
	work    *gpu.Arena // activations, inputs of two batches, scratch of products
	slots   [2]slot    // batches on their way
}

// scoreTokens is the least number of tokens of a batch: enough to fill the
// device, and for products of many tiles.
const scoreTokens = 8192

// Scorer implements engine.Engine.
func (e *Engine) Scorer(cfg model.Config, w engine.Weights) (engine.Scorer, error) {
	s := &scorer{e: e, cfg: pad(cfg), size: max(scoreTokens, roundTo(cfg.MaxPositions, scoreRows))}
	p, a, err := e.compile(s.cfg, graph.Options{Rows: 1, Length: s.size, Output: graph.Scores, Picked: s.size})
	if err != nil {
		return nil, err
	}
	s.x = &executor{device: e.dev, p: p, arena: a, params: placeParams(s.cfg, p.joined), segments: &segments{}}
	if err := e.dev.gpu.Do(func() error {
		return inOrder(s.x.prepare, func() error { return s.loadWeights(cfg, w) }, s.allocate)
	}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// loadWeights copies the parameters to the device.
func (s *scorer) loadWeights(cfg model.Config, w engine.Weights) error {
	params, dev := s.x.params, s.e.dev
	size := int64(params.size) * 4
	var err error
	if s.weights, err = gpu.NewArena(size + int64(params.size)*dev.elem.Size()); err != nil {
		return err
	}
	for i, from := range cfg.Params() {
		data, err := w.Float32(from.Name)
		if err != nil {
			return err
		}
		if data, err = widen(data, from, params.list[i]); err != nil {
			return err
		}
		if err := gpu.Upload(s.weights.At(int64(params.at[i])*4, int64(len(data))*4), data); err != nil {
			return err
		}
	}
	s.x.base.masters, s.x.base.weights = s.weights.At(0, size), s.weights.At(size, 0)
	if dev.elem == gpu.Float32 {
		return dev.stream.Copy(s.x.base.weights, s.x.base.masters, size)
	}
	return s.round(size)
}

// round writes the copies that the products read.
func (s *scorer) round(size int64) error {
	params, dev := s.x.params, s.e.dev
	entries := make([]tensorEntry, len(params.list))
	blocks := 0
	for i, p := range params.list {
		at := int64(params.at[i])
		entries[i] = tensorEntry{Weight: uint64(s.weights.At(at*4, 4)), Copy: uint64(s.weights.At(size+at*dev.elem.Size(), 2)),
			Size: int64(p.Size()), FirstBlock: int32(blocks)}
		blocks += (p.Size() + tensorBlock - 1) / tensorBlock
	}
	table, err := gpu.NewArena(int64(len(entries)) * tensorSize)
	if err != nil {
		return err
	}
	defer table.Free()
	ptr := table.At(0, table.Size())
	return inOrder(
		func() error { return gpu.UploadValues(ptr, entries) },
		func() error {
			return dev.launch(dev.variant("adamw.cu", ""), "copy_weights",
				gpu.Grid{Blocks: [3]int{blocks}, Threads: [3]int{256}}, ptr, int32(len(entries)))
		},
		dev.stream.Synchronize,
	)
}

// allocate makes the memory that batches are computed in.
func (s *scorer) allocate() error {
	activations := roundUp(s.x.arena.size)
	inputs := roundUp(int64(slotInts(s.size)) * 4)
	var err error
	if s.work, err = gpu.NewArena(activations + int64(len(s.slots))*inputs + gpu.WorkspaceSize); err != nil {
		return err
	}
	s.x.base.arena = s.work.At(0, activations)
	at := activations
	for i := range s.slots {
		if err := s.slots[i].open(s.size, s.work.At(at, inputs)); err != nil {
			return err
		}
		at += inputs
	}
	s.x.base.workspace = s.work.At(at, gpu.WorkspaceSize)
	// What an unused row of a batch holds reaches no other row, but should be the
	// same in every run.
	return s.e.dev.stream.Zero(s.x.base.arena, activations)
}

func (s *scorer) limits() pack.Limits {
	return pack.Limits{Tokens: s.size, Picked: s.size, TokenStep: s.size, PickedStep: scoreRows}
}

// BatchTokens implements engine.Scorer: enough batches that the pauses between
// calls do not count.
func (s *scorer) BatchTokens() int { return 16 * s.size }

// Score implements engine.Scorer. While the device computes a batch, the host
// lays out the next one and reads the one before.
func (s *scorer) Score(ctx context.Context, reqs []engine.Request) ([]engine.Score, error) {
	batches, err := pack.Pack(reqs, s.cfg.VocabSize, s.limits())
	if err != nil {
		return nil, err
	}
	scores := make([]engine.Score, 0, len(reqs))
	collect := func(i int) error {
		answers, err := s.slots[i%len(s.slots)].wait(reqs[len(scores):][:batches[i].Requests])
		scores = append(scores, answers...)
		return err
	}
	err = s.e.dev.gpu.Do(func() error {
		for i, b := range batches {
			if err := ctx.Err(); err != nil {
				return errors.Join(err, s.x.stream.Synchronize())
			}
			if i >= len(s.slots) {
				if err := collect(i - len(s.slots)); err != nil {
					return err
				}
			}
			if err := s.start(b, &s.slots[i%len(s.slots)]); err != nil {
				return err
			}
		}
		for i := max(0, len(batches)-len(s.slots)); i < len(batches); i++ {
			if err := collect(i); err != nil {
				return err
			}
		}
		return nil
	})
	return scores, err
}

// start puts a batch into the stream.
func (s *scorer) start(b pack.Batch, l *slot) error {
	x := s.x
	if err := l.put(x, b, x.wideQueries(s.cfg.HeadSize())); err != nil {
		return err
	}
	return inOrder(x.run, func() error { return l.fetch(x) })
}

// Logits implements engine.Scorer.
func (s *scorer) Logits(_ context.Context, tokens []int32) ([]float32, error) {
	if len(tokens) == 0 || len(tokens) > s.size {
		return nil, fmt.Errorf("logits: expected 1 to %d tokens, found %d", s.size, len(tokens))
	}
	if err := engine.CheckTokens(tokens, s.cfg.VocabSize); err != nil {
		return nil, err
	}
	b := pack.Sequence(tokens, s.limits())
	out := make([]float32, len(b.Index)*s.cfg.VocabSize)
	err := s.e.dev.gpu.Do(func() error {
		if err := s.slots[0].put(s.x, b, s.x.wideQueries(s.cfg.HeadSize())); err != nil {
			return err
		}
		last := len(s.x.p.ops) - 1 // score
		for _, o := range s.x.p.ops[:last] {
			if err := s.x.step(o); err != nil {
				return err
			}
		}
		return s.x.headChunks(s.x.p.ops[last], func(at, rows int, _, logits gpu.Ptr) error {
			if err := s.x.stream.Synchronize(); err != nil {
				return err
			}
			return s.x.float32s(out[at*s.cfg.VocabSize:][:rows*s.cfg.VocabSize], logits)
		})
	})
	return out[:len(tokens)*s.cfg.VocabSize], err
}

// float32s reads activations.
func (d *device) float32s(dst []float32, from gpu.Ptr) error {
	if d.elem == gpu.Float32 {
		return gpu.Download(dst, from)
	}
	raw := make([]uint16, len(dst))
	if err := gpu.Download(raw, from); err != nil {
		return err
	}
	for i, b := range raw {
		dst[i] = fromBF16(b)
	}
	return nil
}

// Memory implements engine.Scorer.
func (s *scorer) Memory() engine.Memory {
	return engine.Memory{Weights: s.weights.Size(), Workspace: gpu.WorkspaceSize, Activations: s.work.Size() - gpu.WorkspaceSize}
}

// Close implements engine.Scorer.
func (s *scorer) Close() error {
	return s.e.dev.gpu.Do(func() error {
		var errs []error
		for i := range s.slots {
			errs = append(errs, s.slots[i].close())
		}
		for _, a := range []*gpu.Arena{s.weights, s.work} {
			if a != nil {
				errs = append(errs, a.Free())
			}
		}
		return errors.Join(errs...)
	})
}

// fromBF16 is the value of a bf16 number, the upper half of a float32.
func fromBF16(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }
