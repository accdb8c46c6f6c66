package op

import (
	"math"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// headRows is how many rows of logits exist at a time.
const headRows = 512

// HeadLoss is the output projection and the cross-entropy, summed over the
// positions whose target is not negative: (x [N, H], weight [V, H], targets [N]
// int32) -> scalar. Logits are held for headRows positions at a time.
type HeadLoss struct{}

func (o HeadLoss) OutShape(in []tensor.Shape) tensor.Shape {
	headFits(o, in)
	return tensor.ScalarShape()
}

// Workspace is the memory in bytes that the head's operators take for logits of
// n positions, in float32.
func Workspace(vocab, n int) int64 { return int64(vocab) * int64(min(n, headRows)) * 4 }

func headFits(o Operator, in []tensor.Shape) {
	fits(len(in) >= 3 && len(in[0]) == 2 && len(in[1]) == 2 && in[0][1] == in[1][1] && Size(in[2]) == in[0][0], o, in)
}

func (o HeadLoss) Run(out Array, in []Array) { run(o, out, in, headLoss[float32], headLoss[float64]) }

func headLoss[T blas.Float](_ HeadLoss, out []T, a args[T]) {
	total := 0.0
	logitChunks(a, func(lo int, logits blas.Matrix[T]) {
		total += crossEntropy(logits, a.Ints[2][lo:lo+logits.Rows], nil)
	})
	out[0] = T(total)
}

// logitChunks calls f with the logits of headRows positions after another.
func logitChunks[T blas.Float](a args[T], f func(lo int, logits blas.Matrix[T])) {
	n, h, v := a.Shape[0][0], a.Shape[0][1], a.Shape[1][0]
	buf := scratch[T](min(n, headRows) * v)
	defer release(buf)
	for lo := 0; lo < n; lo += headRows {
		hi := min(n, lo+headRows)
		logits := blas.Dense(hi-lo, v, buf)
		blas.Gemm(blas.AsIs, blas.Transposed, 1, blas.Dense(hi-lo, h, a.F[0][lo*h:]), blas.Dense(v, h, a.F[1]), 0, logits)
		f(lo, logits)
	}
}

// crossEntropy returns the summed loss of rows of logits. With gradScale it
// replaces the logits by the loss's gradient times *gradScale.
func crossEntropy[T blas.Float](logits blas.Matrix[T], targets []int32, gradScale *T) float64 {
	losses := make([]float64, logits.Rows)
	blas.Chunks(logits.Rows, 8, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			row, target := logits.Data[i*logits.Cols:(i+1)*logits.Cols], targets[i]
			if target < 0 {
				if gradScale != nil {
					clear(row)
				}
				continue
			}
			m, correct := maxOf(row), row[target]
			if gradScale == nil {
				losses[i] = logSumExp(row, m) - float64(correct)
				continue
			}
			l := expSum(row, row, m)
			losses[i] = float64(m) + math.Log(float64(l)) - float64(correct)
			scale(row, *gradScale/l)
			row[target] -= *gradScale
		}
	})
	total := 0.0
	for _, l := range losses {
		total += l
	}
	return total
}

// logSumExp is log(sum(exp(row))) for a row whose greatest element is m. It
// leaves the row's exponentials behind.
func logSumExp[T blas.Float](row []T, m T) float64 {
	return float64(m) + math.Log(float64(expSum(row, row, m)))
}

func (o HeadLoss) Differentiates(int) []bool { return []bool{true, true, false} }

// Grad leaves the loss itself in the gradient's pack, so that an engine that
// needs both computes the logits once: element 0 of HeadLossGrad.
func (o HeadLoss) Grad(in []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	pack := Apply(HeadLossGrad{}, in[0], in[1], in[2], grad)
	n, h, v := in[0].Shape()[0], in[0].Shape()[1], in[1].Shape()[0]
	return []*gorgonia.Node{Part(pack, 1, n, h), Part(pack, 1+n*h, v, h), nil}
}

// HeadLossGrad is HeadLoss with its derivative: (x, weight, targets, dloss
// scalar) -> packed loss [1], dx [N, H], dweight [V, H].
type HeadLossGrad struct{}

func (o HeadLossGrad) OutShape(in []tensor.Shape) tensor.Shape {
	headFits(o, in)
	return tensor.Shape{1 + Size(in[0]) + Size(in[1])}
}

func (o HeadLossGrad) Run(out Array, in []Array) {
	run(o, out, in, headLossGrad[float32], headLossGrad[float64])
}

func headLossGrad[T blas.Float](_ HeadLossGrad, out []T, a args[T]) {
	n, h := a.Shape[0][0], a.Shape[0][1]
	dx, dw := out[1:1+n*h], out[1+n*h:]
	total, gradScale := 0.0, a.F[3][0]
	logitChunks(a, func(lo int, logits blas.Matrix[T]) {
		total += crossEntropy(logits, a.Ints[2][lo:lo+logits.Rows], &gradScale)
		projectionGrad(a, lo, logits, dx, dw)
	})
	out[0] = T(total)
}

// projectionGrad carries the gradient of the logits of positions from lo on
// over to those positions' rows of dx [N, H], and adds it to dw [V, H], which
// the first positions overwrite.
func projectionGrad[T blas.Float](a args[T], lo int, grad blas.Matrix[T], dx, dw []T) {
	h, v := a.Shape[0][1], a.Shape[1][0]
	blas.Gemm(blas.AsIs, blas.AsIs, 1, grad, blas.Dense(v, h, a.F[1]), 0, blas.Dense(grad.Rows, h, dx[lo*h:]))
	var beta T
	if lo > 0 {
		beta = 1
	}
	blas.Gemm(blas.Transposed, blas.AsIs, 1, grad, blas.Dense(grad.Rows, h, a.F[0][lo*h:]), beta, blas.Dense(v, h, dw))
}

// HeadScore is the log-likelihood of each target, and 1 where the target is the
// most likely token (the first of equals), else 0: (x [N, H], weight [V, H],
// targets [N] int32) -> [N, 2]. Negative targets give zeros.
type HeadScore struct{}

func (o HeadScore) OutShape(in []tensor.Shape) tensor.Shape {
	headFits(o, in)
	return tensor.Shape{in[0][0], 2}
}

func (o HeadScore) Run(out Array, in []Array) {
	run(o, out, in, headScore[float32], headScore[float64])
}

func headScore[T blas.Float](_ HeadScore, out []T, a args[T]) {
	logitChunks(a, func(first int, logits blas.Matrix[T]) {
		blas.Chunks(logits.Rows, 8, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				row, target, to := logits.Data[i*logits.Cols:(i+1)*logits.Cols], a.Ints[2][first+i], out[2*(first+i):]
				to[0], to[1] = 0, 0
				if target < 0 {
					continue
				}
				m, correct := maxOf(row), row[target]
				if correct == m && maxOf(row[:target]) < m {
					to[1] = 1
				}
				to[0] = T(float64(correct) - logSumExp(row, m))
			}
		})
	})
}
