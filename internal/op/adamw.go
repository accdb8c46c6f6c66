package op

import (
	"math"

	"mlkv/internal/blas"
)

// updateChunk is how many elements one part of an update or a norm handles; it
// fixes the order in which SquaredNorm adds.
const updateChunk = 1 << 16

// AdamWStep is one step of AdamW (arXiv 1711.05101) as PyTorch computes it.
type AdamWStep struct {
	Rate, Beta1, Beta2, Eps float64
	Decay                   float64
	T                       int     // number of this step, from 1
	GradScale               float64 // factor on the gradient: averaging and clipping
}

// Apply updates weights w and moments m and v by gradient g, all of one length.
func (s AdamWStep) Apply(w, m, v, g []float32) {
	a := adamScalars{
		gscale: float32(s.GradScale), beta1: float32(s.Beta1), beta2: float32(s.Beta2), eps: float32(s.Eps),
		shrink:         float32(1 - s.Rate*s.Decay),
		step:           float32(s.Rate / (1 - math.Pow(s.Beta1, float64(s.T)))),
		rootCorrection: float32(1 / math.Sqrt(1-math.Pow(s.Beta2, float64(s.T)))),
	}
	blas.Chunks(len(w), updateChunk, func(lo, hi int) { adamw(w[lo:hi], m[lo:hi], v[lo:hi], g[lo:hi], a) })
}

// SquaredNorm is the sum of the squares of g.
func SquaredNorm(g []float32) float64 {
	parts := make([]float64, (len(g)+updateChunk-1)/updateChunk)
	blas.Chunks(len(g), updateChunk, func(lo, hi int) {
		parts[lo/updateChunk] = float64(sumSquares(g[lo:hi], 0))
	})
	total := 0.0
	for _, p := range parts {
		total += p
	}
	return total
}

// Accumulate adds x to y.
func Accumulate(y, x []float32) {
	blas.Chunks(len(y), updateChunk, func(lo, hi int) { axpy(y[lo:hi], 1, x[lo:hi]) })
}
