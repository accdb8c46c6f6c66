package cpu

import (
	"context"
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/graph"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// scorer keeps the programs of the shapes that it met last.
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

// Shapes are rounded up so that few programs serve many requests.
const (
	lengthStep   = 16
	pickedStep   = 16
	keptPrograms = 32
)

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
	if err := ctx.Err(); err != nil || len(reqs) == 0 {
		return nil, err
	}
	batch, err := engine.Pad(reqs, s.cfg.VocabSize, lengthStep, pickedStep)
	if err != nil {
		return nil, err
	}
	p, err := s.program(graph.Options{Rows: batch.Rows, Length: batch.Length, Output: graph.Scores, Picked: len(batch.Index)})
	if err != nil {
		return nil, err
	}
	p.bind(p.Tokens, batch.Tokens)
	p.bind(p.Index, batch.Index)
	p.bind(p.Targets, batch.Targets)
	p.run(s.arena, nil)
	values := p.value(s.arena, p.Scores)
	scores := make([]engine.Score, len(reqs))
	for i, r := range reqs {
		for range len(r.Tokens) - r.From {
			scores[i].LogLikelihood = append(scores[i].LogLikelihood, values[0])
			scores[i].Greedy = append(scores[i].Greedy, values[1] == 1)
			values = values[2:]
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
