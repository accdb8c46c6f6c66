// Package op holds the model's operators as gorgonia sees them: type, shape,
// symbolic derivative and a CPU kernel in float32 and float64.
//
// An operator is a small struct of attributes that implements Operator, and
// Differentiable if gradients flow through it. Apply wraps it as a gorgonia
// node; Of finds it again, which is how engines walk a graph. Shapes are
// checked while a graph is built, and a shape that does not fit is a
// programming error that panics; Build catches it at the border.
//
// Legend of shape suffixes: N tokens of a batch (rows*length), R rows, T
// length, H hidden size, V vocabulary, O and K the outputs and inputs of a
// linear map, A heads, G key/value heads, D channels a head.
package op

import (
	"fmt"
	"hash"
	"hash/fnv"

	"github.com/chewxy/hm"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Operator is one operation of the model.
type Operator interface {
	// OutShape is the shape of the result, or panics if in does not fit.
	OutShape(in []tensor.Shape) tensor.Shape
	// Run computes out from in on the CPU. It writes every element of out.
	Run(out Array, in []Array)
}

// Differentiable is an Operator that gradients flow through.
type Differentiable interface {
	Operator
	// Differentiates says which inputs have a gradient.
	Differentiates(inputs int) []bool
	// Grad builds the gradient nodes of the inputs, nil where there is none,
	// from the gradient of the output.
	Grad(in []*gorgonia.Node, out, grad *gorgonia.Node) []*gorgonia.Node
}

// Viewer is an Operator whose result is a part of its first input's memory.
type Viewer interface {
	Operator
	// ViewOffset is where the part begins, in elements.
	ViewOffset() int
}

// Apply adds an operator to the graph of its inputs.
func Apply(o Operator, in ...*gorgonia.Node) *gorgonia.Node {
	n := node{Operator: o, out: in[0].Dtype()}
	for _, i := range in {
		n.in = append(n.in, i.Type())
		if d := i.Dtype(); d == tensor.Float32 || d == tensor.Float64 {
			n.out = d
		}
	}
	n.shape = o.OutShape(shapes(in))
	return gorgonia.Must(gorgonia.ApplyOp(n, in...))
}

// Of returns the operator of a node; false for inputs, constants and
// gorgonia's own operators.
func Of(n *gorgonia.Node) (Operator, bool) {
	w, ok := n.Op().(node)
	if !ok {
		return nil, false
	}
	return w.Operator, true
}

// IsSum reports whether a node is the addition that gorgonia.Grad inserts where
// a value is used more than once.
func IsSum(n *gorgonia.Node) bool { return n.Op() != nil && n.Op().String() == "+ false" }

// Build runs f, which builds a graph, and turns its panic into an error.
func Build(f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case error:
			err = fmt.Errorf("building the graph: %w", r)
		default:
			err = fmt.Errorf("building the graph: %v", r)
		}
	}()
	f()
	return nil
}

// node makes an Operator a gorgonia.Op with the types of one application.
type node struct {
	Operator
	in    []hm.Type
	out   tensor.Dtype
	shape tensor.Shape
}

func (n node) Arity() int { return len(n.in) }

func (n node) Type() hm.Type {
	var out hm.Type = n.out
	if len(n.shape) > 0 {
		out = gorgonia.TensorType{Dims: len(n.shape), Of: n.out}
	}
	return hm.NewFnType(append(append([]hm.Type(nil), n.in...), out)...)
}

func (n node) InferShape(...gorgonia.DimSizer) (tensor.Shape, error) { return n.shape, nil }
func (n node) ReturnsPtr() bool                                      { return false }
func (n node) CallsExtern() bool                                     { return false }
func (n node) OverwritesInput() int                                  { return -1 }
func (n node) String() string                                        { return fmt.Sprintf("%T%+v", n.Operator, n.Operator) }
func (n node) WriteHash(h hash.Hash)                                 { fmt.Fprint(h, n.String(), n.shape, n.out) }

func (n node) Hashcode() uint32 {
	h := fnv.New32a()
	n.WriteHash(h)
	return h.Sum32()
}

// Do runs the kernel on gorgonia's values: this is how the tape machine
// executes the graph.
func (n node) Do(in ...gorgonia.Value) (out gorgonia.Value, err error) {
	arrays := make([]Array, len(in))
	for i, v := range in {
		if arrays[i], err = FromValue(v); err != nil {
			return nil, fmt.Errorf("%v: input %d: %w", n, i, err)
		}
	}
	result := NewArray(n.out, n.shape)
	n.Run(result, arrays)
	return result.Value(), nil
}

// DiffWRT implements gorgonia.SDOp.
func (n node) DiffWRT(inputs int) []bool {
	if d, ok := n.Operator.(Differentiable); ok {
		return d.Differentiates(inputs)
	}
	return make([]bool, inputs)
}

// SymDiff implements gorgonia.SDOp.
func (n node) SymDiff(in gorgonia.Nodes, out, grad *gorgonia.Node) (gs gorgonia.Nodes, err error) {
	d, ok := n.Operator.(Differentiable)
	if !ok {
		return nil, fmt.Errorf("%v has no derivative", n)
	}
	err = Build(func() { gs = d.Grad(in, out, grad) })
	return gs, err
}

func shapes(in []*gorgonia.Node) []tensor.Shape {
	out := make([]tensor.Shape, len(in))
	for i, n := range in {
		out[i] = n.Shape()
	}
	return out
}

// fits panics if ok is false.
func fits(ok bool, o Operator, in []tensor.Shape) {
	if !ok {
		panic(fmt.Sprintf("%T%+v: shapes %v do not fit", o, o, in))
	}
}

func all(n int) []bool {
	out := make([]bool, n)
	for i := range out {
		out[i] = true
	}
	return out
}
