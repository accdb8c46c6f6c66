package op

import (
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// Linear is an affine map: (x [N, K], weight [O, K], bias [O]) -> [N, O]. The
// bias may be left out.
type Linear struct{}

func (o Linear) OutShape(in []tensor.Shape) tensor.Shape {
	fits((len(in) == 2 || len(in) == 3 && Size(in[2]) == in[1][0]) &&
		len(in[0]) == 2 && len(in[1]) == 2 && in[0][1] == in[1][1], o, in)
	return tensor.Shape{in[0][0], in[1][0]}
}

func (o Linear) Run(out Array, in []Array) { run(o, out, in, linear[float32], linear[float64]) }

// fewRows is up to how many rows a product is a stream over the weights, which
// dot products read once without packing.
const fewRows = 4

func linear[T blas.Float](_ Linear, out []T, a args[T]) {
	x, w, n, k, o := a.F[0], a.F[1], a.Shape[0][0], a.Shape[0][1], a.Shape[1][0]
	if n <= fewRows {
		blas.Chunks(o, 64, func(lo, hi int) {
			for j := lo; j < hi; j++ {
				var bias T
				if len(a.F) == 3 {
					bias = a.F[2][j]
				}
				for i := range n {
					out[i*o+j] = bias + dot(w[j*k:(j+1)*k], x[i*k:(i+1)*k])
				}
			}
		})
		return
	}
	var beta T
	if len(a.F) == 3 {
		beta = 1
		blas.Chunks(n, 64, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				copy(out[i*o:(i+1)*o], a.F[2])
			}
		})
	}
	blas.Gemm(blas.AsIs, blas.Transposed, 1, blas.Dense(n, k, x), blas.Dense(o, k, w), beta, blas.Dense(n, o, out))
}

func (o Linear) Differentiates(inputs int) []bool { return all(inputs) }

func (o Linear) Grad(in []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	out := []*gorgonia.Node{
		Apply(Product{}, grad, in[1]),
		Apply(Product{TransposeA: true}, grad, in[0]),
	}
	if len(in) == 3 {
		out = append(out, Apply(ColumnSum{}, grad))
	}
	return out
}

// Product multiplies matrices: (a [M, K], b [K, N]) -> [M, N], where a is
// stored as [K, M] with TransposeA.
type Product struct{ TransposeA bool }

func (o Product) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 2 && len(in[0]) == 2 && len(in[1]) == 2, o, in)
	m, k := in[0][0], in[0][1]
	if o.TransposeA {
		m, k = k, m
	}
	fits(k == in[1][0], o, in)
	return tensor.Shape{m, in[1][1]}
}

func (o Product) Run(out Array, in []Array) { run(o, out, in, product[float32], product[float64]) }

func product[T blas.Float](o Product, out []T, a args[T]) {
	m, n := a.Shape[0][0], a.Shape[1][1]
	if o.TransposeA {
		m = a.Shape[0][1]
	}
	blas.Gemm(blas.Transposition(o.TransposeA), blas.AsIs, 1,
		blas.Dense(a.Shape[0][0], a.Shape[0][1], a.F[0]), blas.Dense(a.Shape[1][0], n, a.F[1]), 0, blas.Dense(m, n, out))
}

// ColumnSum adds the rows of a matrix: x [N, O] -> [O].
type ColumnSum struct{}

func (o ColumnSum) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 1 && len(in[0]) == 2, o, in)
	return tensor.Shape{in[0][1]}
}

func (o ColumnSum) Run(out Array, in []Array) {
	run(o, out, in, columnSum[float32], columnSum[float64])
}

func columnSum[T blas.Float](_ ColumnSum, out []T, a args[T]) {
	n, w := a.Shape[0][0], a.Shape[0][1]
	clear(out)
	blas.Chunks(w, 256, func(lo, hi int) {
		for i := range n {
			axpy(out[lo:hi], 1, a.F[0][i*w+lo:i*w+hi])
		}
	})
}
