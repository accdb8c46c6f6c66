//go:build !(goexperiment.simd && amd64)

package blas

// simd is false: gonum serves where there is no OpenBLAS.
const simd = false

func vectorGemm(ta, tb Transposition, alpha float32, a, b Matrix[float32], beta float32, c Matrix[float32]) {
	panic("no vector unit")
}
