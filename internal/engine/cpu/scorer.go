package cpu

import (
	"context"
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/engine/pack"
	"mlkv/internal/engine/plan"
	"mlkv/internal/graph"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// scorer runs the model's graph over one stream of tokens that holds many
// requests. Where the graph attends and rotates, it keeps them apart.
type scorer struct {
	cfg      model.Config
	params   map[string][]float32
	programs map[graph.Options]*program
	recent   []graph.Options // of programs, oldest first
	arena    []float32
}

// Scorer implements engine.Engine. It keeps w's slices and does not write to
// them.
func (e *Engine) Scorer(cfg model.Config, w engine.Weights) (engine.Scorer, error) {
	params, err := load(cfg, w, false)
	if err != nil {
		return nil, err
	}
	return &scorer{cfg: cfg, params: params, programs: map[graph.Options]*program{}}, nil
}

const (
	// step is what the numbers of tokens and of scored positions are filled up
	// to a multiple of, so that few programs serve many requests, and that no
	// product is cut into a remainder that takes another kernel (package blas):
	// then a row of a result does not depend on how many others there are.
	step         = 64
	keptPrograms = 32
	batchTokens  = 4096
)

// BatchTokens implements engine.Scorer.
func (s *scorer) BatchTokens() int { return batchTokens }

// program returns the program of a shape, and forgets the one unused longest.
func (s *scorer) program(o graph.Options) (*program, error) {
	for i, k := range s.recent {
		if k == o {
			s.recent = append(append(s.recent[:i:i], s.recent[i+1:]...), o)
			return s.programs[o], nil
		}
	}
	g, err := graph.Build(s.cfg, o)
	if err != nil {
		return nil, err
	}
	result := g.Scores
	if o.Output == graph.Logits {
		result = g.Logits
	}
	p, err := compile(g, s.params, nodes(result))
	if err != nil {
		return nil, err
	}
	if len(s.recent) == keptPrograms {
		delete(s.programs, s.recent[0])
		s.recent = s.recent[1:]
	}
	s.programs[o], s.recent = p, append(s.recent, o)
	if p.plan.Elements > len(s.arena) {
		s.arena = make([]float32, p.plan.Elements)
	}
	return p, nil
}

// Score implements engine.Scorer.
func (s *scorer) Score(ctx context.Context, reqs []engine.Request) ([]engine.Score, error) {
	batches, err := pack.Pack(reqs, s.cfg.VocabSize, pack.Limits{TokenStep: step, PickedStep: step})
	if err != nil {
		return nil, err
	}
	var scores []engine.Score
	for _, b := range batches {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p, err := s.program(graph.Options{Rows: 1, Length: len(b.Tokens), Output: graph.Scores, Picked: len(b.Index)})
		if err != nil {
			return nil, err
		}
		p.bind(p.Targets, b.Targets)
		s.run(p, b)
		values := p.value(s.arena, p.Scores)
		scores = append(scores, pack.Answers(reqs[len(scores):][:b.Requests],
			func(i int) (float32, bool) { return values[2*i], values[2*i+1] == 1 })...)
	}
	return scores, nil
}

// run executes a program with the operators that look across the stream
// replaced by those that know its segments.
func (s *scorer) run(p *program, b pack.Batch) {
	p.bind(p.Tokens, b.Tokens)
	p.bind(p.Index, b.Index)
	p.run(s.arena, func(step plan.Step, out op.Array, in []op.Array) bool {
		switch o := step.Op.(type) {
		case op.Rotary:
			copy(out.F32, in[0].F32)
			o.TurnAll(out.F32, b.Positions)
		case op.Attention:
			o.AttendSegments(out.F32, in[0].F32, in[1].F32, in[2].F32, b.Segments)
		default:
			return false
		}
		return true
	})
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
	p, err := s.program(graph.Options{Rows: 1, Length: n, Output: graph.Logits, Picked: n})
	if err != nil {
		return nil, err
	}
	p.bind(p.Tokens, tokens)
	p.bind(p.Index, sequence(n))
	p.run(s.arena, nil)
	return append([]float32(nil), p.value(s.arena, p.Graph.Logits)...), nil
}

// sequence is 0, 1, ... n-1.
func sequence(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	return out
}

// Memory implements engine.Scorer.
func (s *scorer) Memory() engine.Memory {
	return engine.Memory{
		Weights: bytes(s.params), Activations: int64(len(s.arena)) * 4,
		Workspace: op.Workspace(s.cfg.VocabSize, 1<<30),
	}
}

// Close implements engine.Scorer.
func (s *scorer) Close() error { return nil }
