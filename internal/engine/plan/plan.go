// Package plan orders the nodes of a graph that an engine must run and gives
// every result a place in one arena, so that results whose lives do not overlap
// share memory.
package plan

import (
	"fmt"
	"slices"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/op"
)

// Place is where a node's value lies.
type Place struct {
	// Arena says that the value is in the arena, at Offset. Otherwise Root is
	// an input or a constant that the engine binds.
	Arena  bool
	Offset int // in elements
	Size   int // in elements
	Shape  tensor.Shape
	Root   *gorgonia.Node
}

// Step runs one node. Op is nil for the additions that gorgonia inserts where
// gradients meet.
type Step struct {
	Node *gorgonia.Node
	Op   op.Operator
	In   []Place
	Out  Place
}

// Plan is the order and the memory of a graph's nodes.
type Plan struct {
	Steps    []Step
	Elements int // size of the arena
	Places   map[*gorgonia.Node]Place
}

// Options say how memory is laid out.
type Options struct {
	// Align is the multiple, in elements, at which places begin; 0 means 1.
	Align int
}

// New plans the nodes that the outputs need. Outputs stay in place until the
// end; views are places within what they view and are no steps.
func New(outputs []*gorgonia.Node, o Options) (*Plan, error) {
	o.Align = max(o.Align, 1)
	nodes := needed(outputs)
	p := &Plan{Places: make(map[*gorgonia.Node]Place, len(nodes))}
	lives, err := lifetimes(nodes, outputs)
	if err != nil {
		return nil, err
	}
	p.Elements = assign(lives, o.Align)
	for _, l := range lives {
		p.Places[l.node] = Place{Arena: true, Offset: l.offset, Size: l.size, Shape: l.node.Shape(), Root: l.node}
	}
	for _, n := range nodes {
		size := op.Size(n.Shape())
		operator, _ := op.Of(n)
		if view, ok := operator.(op.Viewer); ok {
			of := p.Places[inputs(n)[0]]
			p.Places[n] = Place{Arena: of.Arena, Offset: of.Offset + view.ViewOffset(), Size: size, Shape: n.Shape(), Root: of.Root}
			continue
		}
		if n.Op() == nil || len(inputs(n)) == 0 {
			p.Places[n] = Place{Size: size, Shape: n.Shape(), Root: n}
			continue
		}
		if operator == nil && !op.IsSum(n) {
			return nil, fmt.Errorf("planning the graph: no engine knows the operator %v of node %v", n.Op(), n)
		}
		step := Step{Node: n, Op: operator, Out: p.Places[n]}
		for _, in := range inputs(n) {
			step.In = append(step.In, p.Places[in])
		}
		p.Steps = append(p.Steps, step)
	}
	return p, nil
}

// needed lists the nodes that outputs depend on, in the order in which they
// were made: operands come first, and a gradient is taken as soon as it can be.
func needed(outputs []*gorgonia.Node) []*gorgonia.Node {
	seen := map[*gorgonia.Node]bool{}
	var list []*gorgonia.Node
	var visit func(n *gorgonia.Node)
	visit = func(n *gorgonia.Node) {
		if seen[n] {
			return
		}
		seen[n] = true
		list = append(list, n)
		for _, in := range inputs(n) {
			visit(in)
		}
	}
	for _, n := range outputs {
		visit(n)
	}
	slices.SortFunc(list, func(a, b *gorgonia.Node) int { return int(a.ID() - b.ID()) })
	return list
}

func inputs(n *gorgonia.Node) []*gorgonia.Node {
	var out []*gorgonia.Node
	it := n.Graph().From(n.ID())
	for it.Next() {
		out = append(out, it.Node().(*gorgonia.Node))
	}
	return out
}

// life is a result that needs memory from the step that makes it to the last
// that reads it, both included.
type life struct {
	node        *gorgonia.Node
	size        int
	from, until int
	offset      int
}

func lifetimes(nodes, outputs []*gorgonia.Node) ([]*life, error) {
	root := map[*gorgonia.Node]*gorgonia.Node{} // what a node's memory belongs to
	byNode := map[*gorgonia.Node]*life{}
	var lives []*life
	for i, n := range nodes {
		operator, _ := op.Of(n)
		if _, ok := operator.(op.Viewer); ok {
			root[n] = root[inputs(n)[0]]
		} else {
			root[n] = n
			if ins := inputs(n); len(ins) > 0 {
				l := &life{node: n, size: op.Size(n.Shape()), from: i, until: i}
				byNode[n] = l
				lives = append(lives, l)
			}
		}
		for _, in := range inputs(n) {
			r, ok := root[in]
			if !ok {
				return nil, fmt.Errorf("planning the graph: node %v reads %v, which is made later", n, in)
			}
			if l := byNode[r]; l != nil {
				l.until = i
			}
		}
	}
	for _, n := range outputs {
		if l := byNode[root[n]]; l != nil {
			l.until = len(nodes)
		}
	}
	return lives, nil
}

// assign gives every life the lowest offset at which it meets no other one of
// its time, largest first, and returns the size of the arena.
func assign(lives []*life, align int) int {
	bySize := slices.Clone(lives)
	slices.SortStableFunc(bySize, func(a, b *life) int { return b.size - a.size })
	var placed []*life // by offset
	total := 0
	for _, l := range bySize {
		l.offset = 0
		for _, other := range placed {
			if other.until < l.from || l.until < other.from {
				continue
			}
			if l.offset+l.size <= other.offset {
				break
			}
			l.offset = max(l.offset, (other.offset+other.size+align-1)/align*align)
		}
		at, _ := slices.BinarySearchFunc(placed, l, func(a, b *life) int { return a.offset - b.offset })
		placed = slices.Insert(placed, at, l)
		total = max(total, l.offset+l.size)
	}
	return total
}
