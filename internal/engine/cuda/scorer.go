//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"context"
	"errors"
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/engine/pack"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// scorer keeps the weights on the device and runs one program of fixed shape
// over streams of tokens. Since the shape never changes, neither do the kernels
// of the products, and a request's score is the same bits in any batch. Its
// activations are float32; where the engine's are bf16 they are multiplied as
// pairs.
type scorer struct {
	e       *Engine
	cfg     model.Config
	size    int // tokens and scored positions of a batch
	x       *executor
	weights *frozen
	work    *gpu.Arena // activations, inputs of two batches, scratch of products
	slots   [2]slot    // batches on their way
}

// scoreTokens is the least number of tokens of a batch: enough to fill the
// device, and for products of many tiles.
const scoreTokens = 8192

// Scorer implements engine.Engine.
func (e *Engine) Scorer(cfg model.Config, w engine.Weights) (engine.Scorer, error) {
	e = e.paired()
	s := &scorer{e: e, cfg: pad(cfg), size: max(scoreTokens, roundTo(cfg.MaxPositions, scoreRows))}
	p, a, err := e.compile(s.cfg, graph.Options{Rows: 1, Length: s.size, Output: graph.Scores, Picked: s.size})
	if err != nil {
		return nil, err
	}
	s.x = &executor{device: e.dev, p: p, arena: a, segments: &segments{}}
	if err := e.dev.gpu.Do(func() error { return s.open(cfg, w) }); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *scorer) open(cfg model.Config, w engine.Weights) (err error) {
	if err := s.x.prepare(); err != nil {
		return err
	}
	if s.weights, err = s.e.dev.freeze(cfg, w, placeConstants(s.cfg, s.x.p.joined, s.e.dev.sizes())); err != nil {
		return err
	}
	s.x.base.frozen = s.weights
	return s.allocate()
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
	if err := l.put(x, b, wideQueries(s.cfg.HeadSize())); err != nil {
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
		if err := s.slots[0].put(s.x, b, wideQueries(s.cfg.HeadSize())); err != nil {
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
			return gpu.Download(out[at*s.cfg.VocabSize:][:rows*s.cfg.VocabSize], logits)
		})
	})
	return out[:len(tokens)*s.cfg.VocabSize], err
}

// Memory implements engine.Scorer.
func (s *scorer) Memory() engine.Memory {
	return engine.Memory{Weights: s.weights.at.size, Workspace: gpu.WorkspaceSize, Activations: s.work.Size() - gpu.WorkspaceSize}
}

// Close implements engine.Scorer.
func (s *scorer) Close() error {
	return s.e.dev.gpu.Do(func() error {
		errs := []error{s.e.dev.stream.Synchronize(), s.weights.free()}
		for i := range s.slots {
			errs = append(errs, s.slots[i].close())
		}
		if s.work != nil {
			errs = append(errs, s.work.Free())
		}
		return errors.Join(errs...)
	})
}
