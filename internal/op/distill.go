package op

import (
	"math"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// HeadDistill is HeadLoss with a teacher beside it, summed over the positions
// whose target is not negative (knowledge distillation, arXiv 1503.02531):
//
//	(1-Weight) * CE + Weight * Temperature^2 * KL(p || q)
//	p = softmax(teacher logits / Temperature)
//	q = softmax(logits / Temperature)
//
// (x [N, H], weight [V, H], targets [N] int32, teacher's x [N, H'], teacher's
// weight [V, H']) -> scalar. Logits of both are held for headRows positions at
// a time. The teacher has no gradient.
type HeadDistill struct{ Weight, Temperature float64 }

func (o HeadDistill) OutShape(in []tensor.Shape) tensor.Shape {
	distillFits(o, in)
	return tensor.ScalarShape()
}

// DistillWorkspace is Workspace where a teacher's logits lie beside those of
// the model.
func DistillWorkspace(vocab, n int) int64 { return 2 * Workspace(vocab, n) }

func distillFits(o Operator, in []tensor.Shape) {
	headFits(o, in)
	fits(len(in) >= 5 && len(in[3]) == 2 && len(in[4]) == 2 && in[3][1] == in[4][1] &&
		in[3][0] == in[0][0] && in[4][0] == in[1][0], o, in)
}

func (o HeadDistill) Run(out Array, in []Array) {
	run(o, out, in, headDistill[float32], headDistill[float64])
}

func headDistill[T blas.Float](o HeadDistill, out []T, a args[T]) {
	var total distillSums
	distillChunks(a, func(lo int, student, teacher blas.Matrix[T]) {
		total.add(distill(o, student, teacher, a.Ints[2][lo:lo+student.Rows], nil))
	})
	out[0] = T(total.objective(o))
}

func (o HeadDistill) Differentiates(int) []bool { return []bool{true, true, false, false, false} }

// Grad leaves the objective and its parts in the gradient's pack; see
// HeadDistillGrad.
func (o HeadDistill) Grad(in []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	pack := Apply(HeadDistillGrad{o}, in[0], in[1], in[2], in[3], in[4], grad)
	n, h, v := in[0].Shape()[0], in[0].Shape()[1], in[1].Shape()[0]
	return []*gorgonia.Node{
		Part(pack, DistillParts, n, h), Part(pack, DistillParts+n*h, v, h), nil, nil, nil,
	}
}

// Where the scalars of HeadDistillGrad's pack lie: the objective, the plain
// cross-entropy and the divergence without weight and temperature squared, all
// summed. DistillParts is their number, at which dx begins.
const (
	DistillObjective = iota
	DistillCrossEntropy
	DistillDivergence
	DistillParts
)

// HeadDistillGrad is HeadDistill with its derivative: (x, weight, targets,
// teacher's x, teacher's weight, dloss scalar) -> packed scalars [3], dx
// [N, H], dweight [V, H].
type HeadDistillGrad struct{ HeadDistill }

func (o HeadDistillGrad) OutShape(in []tensor.Shape) tensor.Shape {
	distillFits(o, in)
	return tensor.Shape{DistillParts + Size(in[0]) + Size(in[1])}
}

func (o HeadDistillGrad) Run(out Array, in []Array) {
	run(o, out, in, headDistillGrad[float32], headDistillGrad[float64])
}

func headDistillGrad[T blas.Float](o HeadDistillGrad, out []T, a args[T]) {
	n, h := a.Shape[0][0], a.Shape[0][1]
	dx, dw := out[DistillParts:DistillParts+n*h], out[DistillParts+n*h:]
	var total distillSums
	distillChunks(a, func(lo int, student, teacher blas.Matrix[T]) {
		total.add(distill(o.HeadDistill, student, teacher, a.Ints[2][lo:lo+student.Rows], &a.F[5][0]))
		projectionGrad(a, lo, student, dx, dw)
	})
	out[DistillObjective] = T(total.objective(o.HeadDistill))
	out[DistillCrossEntropy], out[DistillDivergence] = T(total.crossEntropy), T(total.divergence)
}

// distillChunks calls f with the logits of model and teacher, headRows
// positions after another.
func distillChunks[T blas.Float](a args[T], f func(lo int, student, teacher blas.Matrix[T])) {
	n, h, v := a.Shape[0][0], a.Shape[3][1], a.Shape[4][0]
	buf := scratch[T](min(n, headRows) * v)
	defer release(buf)
	logitChunks(a, func(lo int, student blas.Matrix[T]) {
		teacher := blas.Dense(student.Rows, v, buf)
		blas.Gemm(blas.AsIs, blas.Transposed, 1, blas.Dense(student.Rows, h, a.F[3][lo*h:]), blas.Dense(v, h, a.F[4]), 0, teacher)
		f(lo, student, teacher)
	})
}

// distillSums are the parts of the objective, summed over positions.
type distillSums struct{ crossEntropy, divergence float64 }

func (s *distillSums) add(t distillSums) {
	s.crossEntropy += t.crossEntropy
	s.divergence += t.divergence
}

func (s distillSums) objective(o HeadDistill) float64 {
	return (1-o.Weight)*s.crossEntropy + o.Weight*o.Temperature*o.Temperature*s.divergence
}

// distill returns the sums of rows of logits, and overwrites both. With
// gradScale it replaces the student's by the objective's gradient times
// *gradScale.
func distill[T blas.Float](o HeadDistill, student, teacher blas.Matrix[T], targets []int32, gradScale *T) distillSums {
	rows := make([]distillSums, student.Rows)
	v := student.Cols
	blas.Chunks(student.Rows, 8, func(lo, hi int) {
		buf := scratch[T](2 * v)
		defer release(buf)
		for i := lo; i < hi; i++ {
			s := student.Data[i*v : (i+1)*v]
			if targets[i] < 0 {
				clear(s)
				continue
			}
			rows[i] = distillRow(o, s, teacher.Data[i*v:(i+1)*v], buf[:v], buf[v:], targets[i], gradScale)
		}
	})
	var total distillSums
	for _, r := range rows {
		total.add(r)
	}
	return total
}

// distillRow is distill for one position. e and p are temporary.
//
// The gradient of the objective by the logits is
//
//	(1-Weight) * (softmax(logits) - onehot) + Weight * Temperature * (q - p).
func distillRow[T blas.Float](o HeadDistill, s, t, e, p []T, target int32, gradScale *T) distillSums {
	m, correct := maxOf(s), s[target]
	l := expSum(e, s, m)
	logSum := float64(m) + math.Log(float64(l))
	sums := distillSums{crossEntropy: logSum - float64(correct)}

	tempered := o.Temperature != 1
	if tempered {
		scale(s, T(1/o.Temperature))
		scale(t, T(1/o.Temperature))
		m = maxOf(s)
	}
	mt := maxOf(t)
	lt := expSum(p, t, mt)
	axpy(t, -1, s)
	gap := float64(dot(p, t)) / float64(lt) // mean of log p - log q under p, without the denominators
	lq := l
	if tempered {
		lq = expSum(s, s, m)
	}
	sums.divergence = gap - (float64(mt) - float64(m)) - (math.Log(float64(lt)) - math.Log(float64(lq)))
	if gradScale == nil {
		return sums
	}

	hard, soft := *gradScale*T(1-o.Weight), *gradScale*T(o.Weight*o.Temperature)
	if tempered {
		scale(s, soft/lq)
		axpy(s, hard/l, e)
	} else {
		copy(s, e)
		scale(s, (hard+soft)/l)
	}
	axpy(s, -soft/lt, p)
	s[target] -= hard
	return sums
}
