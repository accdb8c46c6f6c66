package absorb

import (
	"fmt"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/lapack/gonum"
	"gonum.org/v1/gonum/mat"
)

var lapack gonum.Implementation

// leading finds the k greatest eigenvalues of a symmetric matrix [n, n],
// descending, and their eigenvectors as the columns of vectors [n, k]. It
// overwrites a. The matrix is made tridiagonal, whose eigenvalues are cheap and
// whose wanted eigenvectors are found by inverse iteration: for few of many
// this takes a fraction of a whole decomposition.
func leading(a []float64, n, k int) (values, vectors []float64, err error) {
	if n <= 64 || 3*k > n {
		return leadingDense(a, n, k)
	}
	whole := append([]float64(nil), a...)
	diag, off, tau := make([]float64, n), make([]float64, n-1), make([]float64, n-1)
	size := make([]float64, 1)
	lapack.Dsytrd(blas.Lower, n, a, n, diag, off, tau, size, -1)
	work := make([]float64, int(size[0]))
	lapack.Dsytrd(blas.Lower, n, a, n, diag, off, tau, work, len(work))

	all, e := append([]float64(nil), diag...), append([]float64(nil), off...)
	if !lapack.Dsterf(n, all, e) { // ascending
		return leadingDense(whole, n, k)
	}
	values = make([]float64, k)
	for j := range values {
		values[j] = all[n-1-j]
	}
	vectors = tridiagonalVectors(diag, off, values)
	lapack.Dormqr(blas.Left, blas.NoTrans, n-1, k, n-1, a[n:], n, tau, vectors[k:], k, size, -1)
	work = make([]float64, int(size[0]))
	lapack.Dormqr(blas.Left, blas.NoTrans, n-1, k, n-1, a[n:], n, tau, vectors[k:], k, work, len(work))
	if residual(whole, n, values, vectors) > 1e-9*math.Abs(values[0]) {
		return leadingDense(whole, n, k)
	}
	return values, vectors, nil
}

// leadingDense is leading by a decomposition of the whole matrix.
func leadingDense(a []float64, n, k int) (values, vectors []float64, err error) {
	var eig mat.EigenSym
	if !eig.Factorize(mat.NewSymDense(n, a), true) {
		return nil, nil, fmt.Errorf("the eigenvalues of a %d x %d matrix do not converge", n, n)
	}
	all := eig.Values(nil) // ascending
	var v mat.Dense
	eig.VectorsTo(&v)
	values, vectors = make([]float64, k), make([]float64, n*k)
	for j := range k {
		values[j] = all[n-1-j]
		for i := range n {
			vectors[i*k+j] = v.At(i, n-1-j)
		}
	}
	return values, vectors, nil
}

// tridiagonalVectors finds the eigenvectors of a symmetric tridiagonal matrix
// for given eigenvalues by inverse iteration, as the columns of the result.
// Each is kept orthogonal to those before it, so that equal eigenvalues get a
// basis of their space.
func tridiagonalVectors(diag, off, values []float64) []float64 {
	n, k := len(diag), len(values)
	norm := 0.0
	for i, d := range diag {
		norm = max(norm, math.Abs(d))
		if i < n-1 {
			norm = max(norm, math.Abs(off[i]))
		}
	}
	random := rand.New(rand.NewPCG(1, uint64(n)))
	found := make([][]float64, k)
	lower, upper, d := make([]float64, n-1), make([]float64, n-1), make([]float64, n)
	for j, value := range values {
		x := make([]float64, n)
		for i := range x {
			x[i] = random.NormFloat64()
		}
		// Three solutions reach the rounding error; the shift keeps the
		// system from being exactly singular.
		shift := value + norm*0x1p-50
		for range 3 {
			orthogonalise(x, found[:j])
			copy(lower, off)
			copy(upper, off)
			for i := range d {
				d[i] = diag[i] - shift
			}
			if !lapack.Dgtsv(n, 1, lower, d, upper, x, 1) {
				break
			}
			floats.Scale(1/floats.Norm(x, math.Inf(1)), x)
		}
		orthogonalise(x, found[:j])
		found[j] = x
	}
	out := make([]float64, n*k)
	for j, x := range found {
		for i, v := range x {
			out[i*k+j] = v
		}
	}
	return out
}

// orthogonalise takes out of x what lies along the given unit vectors, twice
// against rounding, and makes it a unit vector.
func orthogonalise(x []float64, units [][]float64) {
	for range 2 {
		for _, u := range units {
			floats.AddScaled(x, -floats.Dot(u, x), u)
		}
		floats.Scale(1/floats.Norm(x, 2), x)
	}
}

// residual is the greatest length of a v - value v over the columns v.
func residual(a []float64, n int, values, vectors []float64) float64 {
	k := len(values)
	var av mat.Dense
	av.Mul(mat.NewDense(n, n, a), mat.NewDense(n, k, vectors))
	worst := 0.0
	for j, value := range values {
		sum := 0.0
		for i := range n {
			d := av.At(i, j) - value*vectors[i*k+j]
			sum += d * d
		}
		worst = max(worst, math.Sqrt(sum))
		if math.IsNaN(sum) {
			return math.Inf(1)
		}
	}
	return worst
}
