package op

import (
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// Embed looks rows up: (ids [N] int32, weight [V, H]) -> [N, H].
type Embed struct{}

func (o Embed) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 2 && len(in[0]) == 1 && len(in[1]) == 2, o, in)
	return tensor.Shape{in[0][0], in[1][1]}
}

func (o Embed) Run(out Array, in []Array) { run(o, out, in, embed[float32], embed[float64]) }

func embed[T blas.Float](_ Embed, out []T, a args[T]) {
	ids, w, h := a.Ints[0], a.F[1], a.Shape[1][1]
	blas.Chunks(len(ids), 256, func(lo, hi int) {
		for n := lo; n < hi; n++ {
			copy(out[n*h:(n+1)*h], w[int(ids[n])*h:])
		}
	})
}

func (o Embed) Differentiates(int) []bool { return []bool{false, true} }

func (o Embed) Grad(in []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	return []*gorgonia.Node{nil, Apply(EmbedGrad{Vocab: in[1].Shape()[0]}, in[0], grad)}
}

// EmbedGrad adds the gradients of looked-up rows: (ids [N] int32, dy [N, H]) ->
// [V, H]. Rows that no token names are zero.
type EmbedGrad struct{ Vocab int }

func (o EmbedGrad) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 2 && len(in[1]) == 2 && in[0][0] == in[1][0], o, in)
	return tensor.Shape{o.Vocab, in[1][1]}
}

func (o EmbedGrad) Run(out Array, in []Array) {
	run(o, out, in, embedGrad[float32], embedGrad[float64])
}

// embedGrad gives each part a range of columns, so that a row's terms are added
// in the order of the tokens whatever the number of threads.
func embedGrad[T blas.Float](_ EmbedGrad, out []T, a args[T]) {
	ids, dy, h := a.Ints[0], a.F[1], a.Shape[1][1]
	blas.Chunks(len(out), 1<<18, func(lo, hi int) { clear(out[lo:hi]) })
	blas.Chunks(h, 64, func(lo, hi int) {
		for n, id := range ids {
			axpy(out[int(id)*h+lo:int(id)*h+hi], 1, dy[n*h+lo:n*h+hi])
		}
	})
}

// Rows picks rows: (x [N, H], index [M] int32) -> [M, H].
type Rows struct{}

func (o Rows) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 2 && len(in[0]) == 2 && len(in[1]) == 1, o, in)
	return tensor.Shape{in[1][0], in[0][1]}
}

func (o Rows) Run(out Array, in []Array) { run(o, out, in, rows[float32], rows[float64]) }

func rows[T blas.Float](_ Rows, out []T, a args[T]) {
	h := a.Shape[0][1]
	for i, n := range a.Ints[1] {
		copy(out[i*h:(i+1)*h], a.F[0][int(n)*h:])
	}
}
