package op

import (
	"math"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// LayerNorm normalises each row to mean 0 and variance 1, then scales and
// shifts (arXiv 1607.06450): (x [N, H], weight [H], bias [H]) -> [N, H].
type LayerNorm struct{ Eps float64 }

func (o LayerNorm) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 3 && len(in[0]) == 2 && Size(in[1]) == in[0][1] && Size(in[2]) == in[0][1], o, in)
	return in[0]
}

func (o LayerNorm) Run(out Array, in []Array) {
	run(o, out, in, layerNorm[float32], layerNorm[float64])
}

// normRows is how many rows one part handles; it fixes the order in which
// layerNormGrad adds.
const normRows = 64

func layerNorm[T blas.Float](o LayerNorm, out []T, a args[T]) {
	x, g, b, h := a.F[0], a.F[1], a.F[2], a.Shape[0][1]
	blas.Chunks(a.Shape[0][0], normRows, func(lo, hi int) {
		for n := lo; n < hi; n++ {
			row := x[n*h : (n+1)*h]
			mean, rstd := moments(row, o.Eps)
			affine(out[n*h:(n+1)*h], row, mean, rstd, g, b)
		}
	})
}

// moments returns the mean and 1/sqrt(variance+eps) of a row.
func moments[T blas.Float](row []T, eps float64) (mean, rstd T) {
	mean = sum(row) / T(len(row))
	variance := float64(sumSquares(row, mean)) / float64(len(row))
	return mean, T(1 / math.Sqrt(variance+eps))
}

func (o LayerNorm) Differentiates(int) []bool { return all(3) }

func (o LayerNorm) Grad(in []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	n, h := in[0].Shape()[0], in[0].Shape()[1]
	pack := Apply(LayerNormGrad{Eps: o.Eps}, in[0], in[1], grad)
	return []*gorgonia.Node{Part(pack, 0, n, h), Part(pack, n*h, h), Part(pack, n*h+h, h)}
}

// LayerNormGrad is the derivative of LayerNorm: (x [N, H], weight [H], dy [N, H])
// -> packed dx [N, H], dweight [H], dbias [H].
type LayerNormGrad struct{ Eps float64 }

func (o LayerNormGrad) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 3 && in[0].Eq(in[2]) && Size(in[1]) == in[0][1], o, in)
	return tensor.Shape{Size(in[0]) + 2*in[0][1]}
}

func (o LayerNormGrad) Run(out Array, in []Array) {
	run(o, out, in, layerNormGrad[float32], layerNormGrad[float64])
}

func layerNormGrad[T blas.Float](o LayerNormGrad, out []T, a args[T]) {
	x, g, dy, n, h := a.F[0], a.F[1], a.F[2], a.Shape[0][0], a.Shape[0][1]
	dx, dg, db := out[:n*h], out[n*h:n*h+h], out[n*h+h:]
	parts := (n + normRows - 1) / normRows
	partial := scratch[T](parts * 2 * h)
	defer release(partial)
	clear(partial)
	blas.Chunks(n, normRows, func(lo, hi int) {
		part := lo / normRows * 2 * h
		pg, pb := partial[part:part+h], partial[part+h:part+2*h]
		dhat := scratch[T](2 * h)
		defer release(dhat)
		hat, dhat := dhat[:h], dhat[h:]
		for i := lo; i < hi; i++ {
			row, drow, dxrow := x[i*h:(i+1)*h], dy[i*h:(i+1)*h], dx[i*h:(i+1)*h]
			mean, rstd := moments(row, o.Eps)
			normTerms(hat, dhat, pg, row, drow, g, mean, rstd)
			add(pb, pb, drow)
			m1, m2 := sum(dhat)/T(h), dot(dhat, hat)/T(h)
			normGrad(dxrow, dhat, hat, m1, m2, rstd)
		}
	})
	clear(dg)
	clear(db)
	for p := range parts {
		axpy(dg, 1, partial[p*2*h:p*2*h+h])
		axpy(db, 1, partial[p*2*h+h:p*2*h+2*h])
	}
}
