package absorb

import (
	"fmt"
	"math"

	gonumblas "gonum.org/v1/gonum/blas"

	"mlkv/internal/blas"
)

// inputs is the second moment of an owner's inputs, factored.
type inputs struct {
	n     int       // H+1
	inv   []float64 // inverse of the lower Cholesky factor of X'X + ridge, [n, n]
	ridge float64   // what was added to the diagonal
	// dependent counts the inputs that those before them tell within 1e-7 of
	// their sum of squares.
	dependent int
}

// factor prepares regressions on inputs whose sum of x x' is xx [n, n]. ridge
// is in units of the mean of its diagonal.
func factor(xx []float64, n int, ridge float64) (*inputs, error) {
	a := append([]float64(nil), xx...)
	mean := 0.0
	for i := range n {
		mean += xx[i*n+i] / float64(n)
	}
	in := &inputs{n: n, ridge: ridge * mean, inv: a}
	for i := range n {
		a[i*n+i] += in.ridge
	}
	if !lapack.Dpotrf(gonumblas.Lower, n, a, n) {
		return nil, fmt.Errorf("the second moments of the inputs are not positive definite with a ridge of %g", in.ridge)
	}
	for i := range n {
		if p := a[i*n+i]; p*p <= 1e-7*xx[i*n+i] {
			in.dependent++
		}
		clear(a[i*n+i+1 : (i+1)*n])
	}
	if !lapack.Dtrtri(gonumblas.Lower, gonumblas.NonUnit, n, a, n) {
		return nil, fmt.Errorf("the second moments of the inputs are singular with a ridge of %g", in.ridge)
	}
	return in, nil
}

// whiten is L^-1 b for b [n, cols]. The columns of X'Y whitened are the fitted
// Y in an orthonormal basis: their products are those of the fitted Y.
func (in *inputs) whiten(b blas.Matrix[float64]) blas.Matrix[float64] {
	out := blas.Dense(in.n, b.Cols, make([]float64, in.n*b.Cols))
	blas.Gemm(blas.AsIs, blas.AsIs, 1, blas.Dense(in.n, in.n, in.inv), b, 0, out)
	return out
}

// coefficients is L'^-1 z for z [n, cols]: those of the regression whose
// whitened fit is z.
func (in *inputs) coefficients(z blas.Matrix[float64]) blas.Matrix[float64] {
	out := blas.Dense(in.n, z.Cols, make([]float64, in.n*z.Cols))
	blas.Gemm(blas.Transposed, blas.AsIs, 1, blas.Dense(in.n, in.n, in.inv), z, 0, out)
	return out
}

// basis is a solution of a reduced-rank regression: fit [n, rank] whitened, and
// back [cols, rank] with orthonormal columns, so that the fitted Y is
// fit back'.
type basis struct{ fit, back blas.Matrix[float64] }

// reduce finds the regression of the given rank that leaves least of Y, where z
// [n, cols] is the whole regression's fit, whitened. The leading eigenvectors
// of z'z are found from the smaller of z'z and z z'.
func reduce(z blas.Matrix[float64], rank int) (basis, error) {
	n, cols := z.Rows, z.Cols
	b := basis{
		fit:  blas.Dense(n, rank, make([]float64, n*rank)),
		back: blas.Dense(cols, rank, make([]float64, cols*rank)),
	}
	if cols <= n {
		gram := blas.Dense(cols, cols, make([]float64, cols*cols))
		blas.Gemm(blas.Transposed, blas.AsIs, 1, z, z, 0, gram)
		_, vectors, err := leading(gram.Data, cols, rank)
		if err != nil {
			return b, err
		}
		b.back.Data = vectors
		blas.Gemm(blas.AsIs, blas.AsIs, 1, z, b.back, 0, b.fit)
		return b, nil
	}
	gram := blas.Dense(n, n, make([]float64, n*n))
	blas.Gemm(blas.AsIs, blas.Transposed, 1, z, z, 0, gram)
	values, vectors, err := leading(gram.Data, n, rank)
	if err != nil {
		return b, err
	}
	// With the singular value decomposition z = U S V': fit = U S, back = V =
	// z' U / S. A direction of no length, which z does not have, is left out.
	blas.Gemm(blas.Transposed, blas.AsIs, 1, z, blas.Dense(n, rank, vectors), 0, b.back)
	for j, v := range values {
		s := 0.0
		if v > 1e-13*values[0] {
			s = math.Sqrt(v)
		}
		for i := range n {
			b.fit.Data[i*rank+j] = vectors[i*rank+j] * s
		}
		for i := range cols {
			if s > 0 {
				b.back.Data[i*rank+j] /= s
			} else {
				b.back.Data[i*rank+j] = 0
			}
		}
	}
	return b, nil
}

// plane is a solution in a plane of rotary, where keys are complex numbers and
// only multiples of one of them can be had: the fitted key of source i is fit
// times conj(back[i]), with back of length 1. explained is the sum of squares
// over query heads.
type plane struct {
	fit       blas.Matrix[float64] // [n, 2], real and imaginary part, whitened
	back      []complex128
	explained float64
}

// reducePlane is reduce of rank 1 for complex columns, of which z [n, 2*k] holds
// the real parts and behind them the imaginary ones. The leading eigenvector
// of the Hermitian z^H z = P + iQ is found from the real matrix
// [[P, -Q], [Q, P]], which has every eigenvalue twice.
func reducePlane(z blas.Matrix[float64]) (plane, error) {
	n, k := z.Rows, z.Cols/2
	g := blas.Dense(2*k, 2*k, make([]float64, 4*k*k))
	blas.Gemm(blas.Transposed, blas.AsIs, 1, z, z, 0, g)
	at := func(i, j int) float64 { return g.Data[i*2*k+j] }
	real := make([]float64, 4*k*k)
	for i := range k {
		for j := range k {
			p, q := at(i, j)+at(k+i, k+j), at(i, k+j)-at(k+i, j)
			real[i*2*k+j], real[i*2*k+k+j] = p, -q
			real[(k+i)*2*k+j], real[(k+i)*2*k+k+j] = q, p
		}
	}
	_, v, err := leading(real, 2*k, 1)
	if err != nil {
		return plane{}, err
	}
	out := plane{fit: blas.Dense(n, 2, make([]float64, 2*n)), back: make([]complex128, k)}
	// (zr + i zi)(vr + i vi), both parts as one product.
	turn := blas.Dense(2*k, 2, make([]float64, 4*k))
	for i := range k {
		re, im := v[i], v[k+i]
		out.back[i] = complex(re, im)
		turn.Data[2*i], turn.Data[2*i+1] = re, im
		turn.Data[2*(k+i)], turn.Data[2*(k+i)+1] = -im, re
	}
	blas.Gemm(blas.AsIs, blas.AsIs, 1, z, turn, 0, out.fit)
	return out, nil
}
