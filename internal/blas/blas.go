// Package blas multiplies matrices: by OpenBLAS where the machine has it,
// opened at run time, by a vector kernel of its own or by gonum otherwise. Its
// products are the same bits for any number of threads: work is cut into tiles
// of a fixed size, and every tile is one call on one thread.
package blas

import (
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// Float is an element type of products.
type Float interface{ float32 | float64 }

// Tile sizes of a product's result. A tile is large enough that the library's
// packing of its operands costs little; small results are cut finer, so that
// several threads share them.
const (
	tileRows  = 512
	tileCols  = 1024
	leastTile = 64
	fewTiles  = 8
)

// tiles is how a result is cut, from its shape alone.
func tiles(rows, cols int) (tr, tc int) {
	tr, tc = tileRows, tileCols
	for ceil(rows, tr)*ceil(cols, tc) < fewTiles {
		switch r, c := min(tr, rows), min(tc, cols); {
		case r >= c && r > leastTile:
			tr = max(leastTile, ceil(r, 2))
		case c > leastTile:
			tc = max(leastTile, ceil(c, 2))
		case r > leastTile:
			tr = max(leastTile, ceil(r, 2))
		default:
			return tr, tc
		}
	}
	return tr, tc
}

func ceil(n, d int) int { return (n + d - 1) / d }

// Matrix is a row-major matrix; element (i, j) is Data[i*Stride+j].
type Matrix[T Float] struct {
	Rows, Cols, Stride int
	Data               []T
}

// Dense is a matrix without gaps between its rows.
func Dense[T Float](rows, cols int, data []T) Matrix[T] {
	return Matrix[T]{rows, cols, cols, data}
}

// Transposition says how an operand of Gemm is read.
type Transposition bool

const (
	AsIs       Transposition = false
	Transposed Transposition = true
)

// Gemm computes c = alpha*op(a)*op(b) + beta*c in parallel. With beta zero, c
// need not be initialised. Shapes that do not fit are a programming error.
func Gemm[T Float](ta, tb Transposition, alpha T, a, b Matrix[T], beta T, c Matrix[T]) {
	tr, tc := tiles(c.Rows, c.Cols)
	rowTiles, colTiles := ceil(c.Rows, tr), ceil(c.Cols, tc)
	Parallel(rowTiles*colTiles, func(i int) {
		r0, c0 := i/colTiles*tr, i%colTiles*tc
		r1, c1 := min(r0+tr, c.Rows), min(c0+tc, c.Cols)
		ai, bi := a, b
		if ta {
			ai = a.cut(0, a.Rows, r0, r1)
		} else {
			ai = a.cut(r0, r1, 0, a.Cols)
		}
		if tb {
			bi = b.cut(c0, c1, 0, b.Cols)
		} else {
			bi = b.cut(0, b.Rows, c0, c1)
		}
		Serial(ta, tb, alpha, ai, bi, beta, c.cut(r0, r1, c0, c1))
	})
}

// cut is the part of m in rows [r0, r1) and columns [c0, c1).
func (m Matrix[T]) cut(r0, r1, c0, c1 int) Matrix[T] {
	return Matrix[T]{r1 - r0, c1 - c0, m.Stride, m.Data[r0*m.Stride+c0:]}
}

// smallProduct is up to how many multiply-adds OpenBLAS takes kernels of another
// order of addition than for larger products (its SMALL_MATRIX_OPT). The vector
// kernel takes these products instead, so that an element of a result does not
// depend on how many others are computed beside it.
const smallProduct = 1_000_000

// Vector reports whether this build and processor have the vector kernel: the
// build needs GOEXPERIMENT=simd on amd64, the processor AVX2 and FMA.
func Vector() bool { return simd }

// Serial is Gemm on the calling goroutine alone.
func Serial[T Float](ta, tb Transposition, alpha T, a, b Matrix[T], beta T, c Matrix[T]) {
	k := a.Cols
	if ta {
		k = a.Rows
	}
	if c.Rows == 0 || c.Cols == 0 {
		return
	}
	switch cd := any(c.Data).(type) {
	case []float32:
		ad, bd := any(a.Data).([]float32), any(b.Data).([]float32)
		al, be := float32(alpha), float32(beta)
		small := simd && c.Rows*c.Cols*k <= smallProduct
		if !small && open().sgemm(ta, tb, c.Rows, c.Cols, k, al, ad, a.Stride, bd, b.Stride, be, cd, c.Stride) {
			return
		}
		if simd {
			vectorGemm(ta, tb, al, any(a).(Matrix[float32]), any(b).(Matrix[float32]), be, any(c).(Matrix[float32]))
			return
		}
		gonum.Implementation{}.Sgemm(flag(ta), flag(tb), c.Rows, c.Cols, k, al, ad, a.Stride, bd, b.Stride, be, cd, c.Stride)
	case []float64:
		ad, bd := any(a.Data).([]float64), any(b.Data).([]float64)
		al, be := float64(alpha), float64(beta)
		if open().dgemm(ta, tb, c.Rows, c.Cols, k, al, ad, a.Stride, bd, b.Stride, be, cd, c.Stride) {
			return
		}
		gonum.Implementation{}.Dgemm(flag(ta), flag(tb), c.Rows, c.Cols, k, al, ad, a.Stride, bd, b.Stride, be, cd, c.Stride)
	}
}

func flag(t Transposition) blas.Transpose {
	if t {
		return blas.Trans
	}
	return blas.NoTrans
}
