package op

import (
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// elementChunk is how many elements one part of an elementwise kernel handles.
const elementChunk = 1 << 15

// Gelu is the exact GELU, x*Phi(x): x -> same shape.
type Gelu struct{}

func (o Gelu) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 1, o, in)
	return in[0]
}

func (o Gelu) Run(out Array, in []Array) { run(o, out, in, geluForward[float32], geluForward[float64]) }

func geluForward[T blas.Float](_ Gelu, out []T, a args[T]) {
	blas.Chunks(len(out), elementChunk, func(lo, hi int) { gelu(out[lo:hi], a.F[0][lo:hi]) })
}

func (o Gelu) Differentiates(int) []bool { return all(1) }

func (o Gelu) Grad(in []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	return []*gorgonia.Node{Apply(GeluGrad{}, in[0], grad)}
}

// GeluGrad is the derivative of Gelu: (x, dy) -> dx, all of one shape.
type GeluGrad struct{}

func (o GeluGrad) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 2 && in[0].Eq(in[1]), o, in)
	return in[0]
}

func (o GeluGrad) Run(out Array, in []Array) {
	run(o, out, in, geluBackward[float32], geluBackward[float64])
}

func geluBackward[T blas.Float](_ GeluGrad, out []T, a args[T]) {
	blas.Chunks(len(out), elementChunk, func(lo, hi int) { geluGrad(out[lo:hi], a.F[0][lo:hi], a.F[1][lo:hi]) })
}

// Sum adds any number of arrays of one shape: the residual stream.
type Sum struct{}

func (o Sum) OutShape(in []tensor.Shape) tensor.Shape {
	for _, s := range in {
		fits(s.Eq(in[0]), o, in)
	}
	return in[0]
}

func (o Sum) Run(out Array, in []Array) { run(o, out, in, sumForward[float32], sumForward[float64]) }

func sumForward[T blas.Float](_ Sum, out []T, a args[T]) {
	blas.Chunks(len(out), elementChunk, func(lo, hi int) {
		add(out[lo:hi], a.F[0][lo:hi], a.F[1][lo:hi])
		for _, x := range a.F[2:] {
			add(out[lo:hi], out[lo:hi], x[lo:hi])
		}
	})
}

func (o Sum) Differentiates(inputs int) []bool { return all(inputs) }

func (o Sum) Grad(in []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	out := make([]*gorgonia.Node, len(in))
	for i := range out {
		out[i] = grad
	}
	return out
}
