//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"context"
	"errors"
	"fmt"
	"math"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// scorer keeps the weights on the device and runs one program a call, in memory
// that grows with the largest.
type scorer struct {
	e       *Engine
	cfg     model.Config
	params  *params
	weights *gpu.Arena // masters, then what the products read
	work    *gpu.Arena // activations and inputs of the latest programs
	scratch *gpu.Arena // of products
}

// Scorer implements engine.Engine.
func (e *Engine) Scorer(cfg model.Config, w engine.Weights) (engine.Scorer, error) {
	s := &scorer{e: e, cfg: pad(cfg)}
	if err := e.dev.gpu.Do(func() error { return s.open(cfg, w) }); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *scorer) open(cfg model.Config, w engine.Weights) error {
	p, _, err := s.e.compile(s.cfg, graph.Options{Rows: 1, Length: 8, Output: graph.Logits, Picked: 8})
	if err != nil {
		return err
	}
	s.params = placeParams(s.cfg, p.joined)
	size := int64(s.params.size) * 4
	if s.weights, err = gpu.NewArena(size + int64(s.params.size)*s.e.dev.elem.Size()); err != nil {
		return err
	}
	if s.scratch, err = gpu.NewArena(gpu.WorkspaceSize); err != nil {
		return err
	}
	for i, from := range cfg.Params() {
		data, err := w.Float32(from.Name)
		if err != nil {
			return err
		}
		if data, err = widen(data, from, s.params.list[i]); err != nil {
			return err
		}
		if err := gpu.Upload(s.weights.At(int64(s.params.at[i])*4, int64(len(data))*4), data); err != nil {
			return err
		}
	}
	if s.e.dev.elem == gpu.Float32 {
		return s.e.dev.stream.Copy(s.weights.At(size, size), s.weights.At(0, size), size)
	}
	return s.round(size)
}

// round writes the copies that the products read.
func (s *scorer) round(size int64) error {
	entries := make([]tensorEntry, len(s.params.list))
	blocks := 0
	for i, p := range s.params.list {
		at := int64(s.params.at[i])
		entries[i] = tensorEntry{Weight: uint64(s.weights.At(at*4, 4)), Copy: uint64(s.weights.At(size+at*s.e.dev.elem.Size(), 2)),
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
			return s.e.dev.launch(s.e.dev.variant("adamw.cu", ""), "copy_weights",
				gpu.Grid{Blocks: [3]int{blocks}, Threads: [3]int{256}}, ptr, int32(len(entries)))
		},
		s.e.dev.stream.Synchronize,
	)
}

// run computes a program on inputs; read is called when it is done.
func (s *scorer) run(o graph.Options, tokens, index, targets []int32, read func(x *executor) error) error {
	p, a, err := s.e.compile(s.cfg, o)
	if err != nil {
		return err
	}
	return s.e.dev.gpu.Do(func() error {
		x := &executor{device: s.e.dev, p: p, arena: a, params: s.params}
		if err := x.prepare(); err != nil {
			return err
		}
		if err := s.bind(x, map[*matrix][]int32{p.tokens: tokens, p.index: index, p.targets: targets}); err != nil {
			return err
		}
		return inOrder(x.run, x.stream.Synchronize, func() error { return read(x) })
	})
}

// bind gives an executor memory and its inputs.
func (s *scorer) bind(x *executor, inputs map[*matrix][]int32) error {
	size := x.arena.size
	for _, v := range inputs {
		size += roundUp(int64(len(v)) * 4)
	}
	if s.work == nil || s.work.Size() < size {
		if s.work != nil {
			if err := s.work.Free(); err != nil {
				return err
			}
		}
		var err error
		if s.work, err = gpu.NewArena(size); err != nil {
			return err
		}
	}
	master := int64(s.params.size) * 4
	x.base = bases{
		arena: s.work.At(0, x.arena.size), masters: s.weights.At(0, master), weights: s.weights.At(master, 0),
		workspace: s.scratch.At(0, gpu.WorkspaceSize), inputs: map[*matrix]gpu.Ptr{},
	}
	at := x.arena.size
	for m, v := range inputs {
		if m == nil {
			continue
		}
		x.base.inputs[m] = s.work.At(at, int64(len(v))*4)
		if err := gpu.Upload(x.base.inputs[m], v); err != nil {
			return err
		}
		at += roundUp(int64(len(v)) * 4)
	}
	return nil
}

// Shapes are rounded up so that few products have to be tuned.
const (
	lengthStep = 64
	pickedStep = 64
)

// Score implements engine.Scorer.
func (s *scorer) Score(ctx context.Context, reqs []engine.Request) ([]engine.Score, error) {
	if err := ctx.Err(); err != nil || len(reqs) == 0 {
		return nil, err
	}
	batch, err := engine.Pad(reqs, s.cfg.VocabSize, lengthStep, pickedStep)
	if err != nil {
		return nil, err
	}
	picked := len(batch.Index)
	likelihood, greedy := make([]float32, picked), make([]int32, picked)
	err = s.run(graph.Options{Rows: batch.Rows, Length: batch.Length, Output: graph.Scores, Picked: picked}, batch.Tokens, batch.Index, batch.Targets,
		func(x *executor) error {
			return errors.Join(gpu.Download(likelihood, x.ptr(x.p.likelihood)), gpu.Download(greedy, x.ptr(x.p.greedy)))
		})
	if err != nil {
		return nil, err
	}
	scores := make([]engine.Score, len(reqs))
	for i, r := range reqs {
		for range len(r.Tokens) - r.From {
			scores[i].LogLikelihood = append(scores[i].LogLikelihood, likelihood[0])
			scores[i].Greedy = append(scores[i].Greedy, greedy[0] == 1)
			likelihood, greedy = likelihood[1:], greedy[1:]
		}
	}
	return scores, nil
}

// Logits implements engine.Scorer.
func (s *scorer) Logits(_ context.Context, tokens []int32) ([]float32, error) {
	if len(tokens) == 0 {
		return nil, fmt.Errorf("logits: no tokens")
	}
	if err := engine.CheckTokens(tokens, s.cfg.VocabSize); err != nil {
		return nil, err
	}
	n := len(tokens)
	index := make([]int32, n)
	for i := range index {
		index[i] = int32(i)
	}
	out := make([]float32, n*s.cfg.VocabSize)
	return out, s.run(graph.Options{Rows: 1, Length: n, Output: graph.Logits, Picked: n}, tokens, index, nil,
		func(x *executor) error { return x.float32s(x.p.logits, out) })
}

// float32s reads a matrix of activations.
func (x *executor) float32s(m *matrix, dst []float32) error {
	if x.elem == gpu.Float32 {
		return gpu.Download(dst, x.ptr(m))
	}
	raw := make([]uint16, len(dst))
	if err := gpu.Download(raw, x.ptr(m)); err != nil {
		return err
	}
	for i, b := range raw {
		dst[i] = fromBF16(b)
	}
	return nil
}

// Memory implements engine.Scorer.
func (s *scorer) Memory() engine.Memory {
	m := engine.Memory{Weights: s.weights.Size(), Workspace: s.scratch.Size()}
	if s.work != nil {
		m.Activations = s.work.Size()
	}
	return m
}

// Close implements engine.Scorer.
func (s *scorer) Close() error {
	return s.e.dev.gpu.Do(func() error {
		var errs []error
		for _, a := range []*gpu.Arena{s.weights, s.work, s.scratch} {
			if a != nil {
				errs = append(errs, a.Free())
			}
		}
		return errors.Join(errs...)
	})
}

// fromBF16 is the value of a bf16 number, the upper half of a float32.
func fromBF16(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }
