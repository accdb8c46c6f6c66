package cpu

import (
	"fmt"

	"gorgonia.org/gorgonia"
	"mlkv/internal/engine/plan"
	"mlkv/internal/graph"
	"mlkv/internal/op"
)

// program is a planned graph with its inputs bound. Several programs may run in
// one arena, one after another.
type program struct {
	*graph.Graph
	plan   *plan.Plan
	inputs map[*gorgonia.Node]op.Array
}

// compile builds and plans a graph and binds its parameters. Its results stay
// in the arena until the next run.
func compile(g *graph.Graph, params map[string][]float32, results []*gorgonia.Node) (*program, error) {
	p, err := plan.New(results, plan.Options{Align: 16})
	if err != nil {
		return nil, err
	}
	prog := &program{Graph: g, plan: p, inputs: map[*gorgonia.Node]op.Array{}}
	for name, n := range g.Params {
		prog.inputs[n] = op.Array{F32: params[name]}
	}
	for n, place := range p.Places {
		if place.Root == n && n.Value() != nil {
			if prog.inputs[n], err = op.FromValue(n.Value()); err != nil {
				return nil, fmt.Errorf("constant %v: %w", n, err)
			}
		}
	}
	return prog, nil
}

// bind sets an integer input.
func (p *program) bind(n *gorgonia.Node, v []int32) { p.inputs[n] = op.Array{I32: v} }

// hook runs a step in place of its kernel if it returns true.
type hook func(s plan.Step, out op.Array, in []op.Array) bool

// run executes every step in an arena of at least plan.Elements.
func (p *program) run(arena []float32, instead hook) {
	for _, s := range p.plan.Steps {
		in := make([]op.Array, len(s.In))
		for i, place := range s.In {
			in[i] = p.array(arena, place)
		}
		out := p.array(arena, s.Out)
		switch {
		case instead != nil && instead(s, out, in):
		case s.Op != nil:
			s.Op.Run(out, in)
		default:
			op.Sum{}.Run(out, in)
		}
	}
}

// array is the value at a place.
func (p *program) array(arena []float32, at plan.Place) op.Array {
	a := op.Array{F32: arena}
	if !at.Arena {
		a = p.inputs[at.Root]
	}
	a.Shape = at.Shape
	if a.F32 != nil {
		a.F32 = a.F32[at.Offset : at.Offset+at.Size]
	}
	return a
}

// value is what a result holds after a run.
func (p *program) value(arena []float32, n *gorgonia.Node) []float32 {
	return p.array(arena, p.plan.Places[n]).F32
}
