package cpu

import (
	"context"
	"fmt"

	"gorgonia.org/gorgonia"
	"mlkv/internal/engine"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// collector runs a model and keeps what its layers' attention reads and makes.
type collector struct {
	cfg   model.Config
	prog  *program
	arena []float32
}

// Collector implements engine.Observer.
func (e *Engine) Collector(cfg model.Config, w engine.Weights, rows, length int) (engine.Collector, error) {
	params, err := load(cfg, w, false)
	if err != nil {
		return nil, err
	}
	g, err := graph.Build(cfg, graph.Options{Rows: rows, Length: length, Output: graph.Activations})
	if err != nil {
		return nil, err
	}
	var results []*gorgonia.Node
	for _, l := range g.Layers {
		results = append(results, nodes(l.Input, l.Query, l.Output, l.Key, l.Value)...)
	}
	prog, err := compile(g, params, results)
	if err != nil {
		return nil, err
	}
	return &collector{cfg, prog, make([]float32, prog.plan.Elements)}, nil
}

// Collect implements engine.Collector.
func (c *collector) Collect(ctx context.Context, tokens []int32, visit func(engine.Activations) error) error {
	if want := c.prog.Options.Rows * c.prog.Options.Length; len(tokens) != want {
		return fmt.Errorf("collect: expected %d tokens, found %d", want, len(tokens))
	}
	if err := engine.CheckTokens(tokens, c.cfg.VocabSize); err != nil {
		return err
	}
	c.prog.bind(c.prog.Tokens, tokens)
	c.prog.run(c.arena, nil)
	for i, l := range c.prog.Layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		a := engine.Activations{
			Layer: i, Input: c.prog.value(c.arena, l.Input), Query: c.prog.value(c.arena, l.Query), Output: c.prog.value(c.arena, l.Output),
		}
		if l.Key != nil {
			a.Key = c.prog.value(c.arena, l.Key)
		}
		if l.Value != nil {
			a.Value = c.prog.value(c.arena, l.Value)
		}
		if err := visit(a); err != nil {
			return err
		}
	}
	return nil
}

// Close implements engine.Collector.
func (c *collector) Close() error { return nil }
