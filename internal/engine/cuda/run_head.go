//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

func (d *device) headVariant(vocab int) variant {
	return d.variant("headloss.cu", fmt.Sprintf("VOCAB=%d", vocab))
}

// logitProduct, inputProduct and weightProduct are the products of a chunk of
// rows: logits, and from their gradient that of the head's input and weight.
func (x *executor) logitProduct(rows, hidden, vocab int) gpu.Product {
	return gpu.Product{M: rows, N: vocab, K: hidden, TransB: true, In: x.elem, Out: x.elem, Whole: x.segments != nil}
}

func (x *executor) inputProduct(rows, hidden, vocab int) gpu.Product {
	return gpu.Product{M: rows, N: hidden, K: vocab, In: x.elem, Out: x.elem}
}

func (x *executor) weightProduct(rows, hidden, vocab int, add bool) gpu.Product {
	return gpu.Product{M: vocab, N: hidden, K: rows, TransA: true, In: x.elem, Out: gpu.Float32, Add: add}
}

// chunks calls f with the first row and the number of rows of each chunk.
func chunks(n, most int, f func(at, rows int) error) error {
	for at := 0; at < n; at += most {
		if err := f(at, min(most, n-at)); err != nil {
			return err
		}
	}
	return nil
}

// headProducts lists the products of a head's chunks.
func (x *executor) headProducts(o *operation, grad bool) []gpu.Product {
	n, hidden, vocab := o.in[0].rows, o.in[0].cols, o.in[1].rows
	var list []gpu.Product
	_ = chunks(n, o.temp[0].rows, func(_, rows int) error { // f has no error
		list = append(list, x.parts(x.logitProduct(rows, hidden, vocab))...)
		if grad {
			list = append(list, x.inputProduct(rows, hidden, vocab), x.weightProduct(rows, hidden, vocab, true))
		}
		return nil
	})
	return list
}

// multiplyAt runs a product of matrices at given addresses.
func (x *executor) multiplyAt(p gpu.Product, a, b, d gpu.Ptr) error {
	return x.runProduct(p, gpu.Operands{A: a, B: b, C: d, D: d, Workspace: x.base.workspace})
}

// headChunks calls f with the logits of every chunk; of a scorer, of those that
// hold picked positions.
func (x *executor) headChunks(o *operation, f func(at, rows int, input, logits gpu.Ptr) error) error {
	in, w, logits := o.in[0], o.in[1], o.temp[0]
	size := gpu.Ptr(x.elem.Size())
	n := in.rows
	if x.segments != nil {
		n = roundTo(x.segments.picked, logits.rows)
	}
	return chunks(n, logits.rows, func(at, rows int) error {
		input := x.ptr(in) + gpu.Ptr(at*in.cols)*size
		p := x.logitProduct(rows, in.cols, w.rows)
		var err error
		if x.pairs {
			operands := gpu.Operands{A: input, B: x.ptr(w), D: x.ptr(logits), Workspace: x.base.workspace}
			err = x.multiplyPairs(p, operands, x.ptr(o.temp[1]))
		} else {
			err = x.multiplyAt(p, input, x.ptr(w), x.ptr(logits))
		}
		if err != nil {
			return err
		}
		return f(at, rows, input, x.ptr(logits))
	})
}

func (x *executor) head(o *operation, k head) error {
	in, w, targets, losses := o.in[0], o.in[1], o.in[2], o.out[0]
	variant := x.headVariant(w.rows)
	return x.headChunks(o, func(at, rows int, input, logits gpu.Ptr) error {
		if err := x.launch(variant, "head_loss", gpu.Grid{Blocks: [3]int{rows}, Threads: [3]int{1024}},
			logits, x.ptr(targets)+gpu.Ptr(at*4), x.ptr(losses)+gpu.Ptr(at*4), int32(rows), int64(w.rows), float32(1)); err != nil {
			return err
		}
		if !k.grad {
			return nil
		}
		return x.projectionGrad(o, in, w, o.out[1], o.out[2], at, rows, input, logits)
	})
}

// projectionGrad carries the gradient of a chunk's logits over to its rows of dx
// and adds it to dw.
func (x *executor) projectionGrad(o *operation, in, w, dx, dw *matrix, at, rows int, input, logits gpu.Ptr) error {
	to := x.ptr(dx) + gpu.Ptr(int64(at*in.cols)*x.elem.Size())
	if err := x.multiplyAt(x.inputProduct(rows, in.cols, w.rows), logits, x.ptr(w), to); err != nil {
		return err
	}
	return x.multiplyAt(x.weightProduct(rows, in.cols, w.rows, at > 0 || x.adds(o)), logits, input, x.ptr(dw))
}

// distillProducts are headProducts with those of the teacher's logits.
func (x *executor) distillProducts(o *operation) []gpu.Product {
	list := x.headProducts(o, true)
	taught := &operation{in: o.in[3:], temp: o.temp[1:]}
	return append(list, x.headProducts(taught, false)...)
}

func (x *executor) distill(o *operation, k distill) error {
	w, targets, other, otherWeight, otherLogits := o.in[1], o.in[2], o.in[3], o.in[4], o.temp[1]
	variant := x.headVariant(w.rows)
	return x.headChunks(o, func(at, rows int, input, logits gpu.Ptr) error {
		from := x.ptr(other) + gpu.Ptr(int64(at*other.cols)*x.elem.Size())
		if err := x.multiplyAt(x.logitProduct(rows, other.cols, w.rows), from, x.ptr(otherWeight), x.ptr(otherLogits)); err != nil {
			return err
		}
		offset := gpu.Ptr(at * 4)
		if err := x.launch(variant, "head_distill", gpu.Grid{Blocks: [3]int{rows}, Threads: [3]int{1024}},
			logits, x.ptr(otherLogits), x.ptr(targets)+offset, x.ptr(o.out[0])+offset, x.ptr(o.out[1])+offset,
			int32(rows), int64(w.rows), float32(k.Weight), float32(k.Temperature)); err != nil {
			return err
		}
		return x.projectionGrad(o, o.in[0], w, o.out[2], o.out[3], at, rows, input, logits)
	})
}

func (x *executor) score(o *operation) error {
	w, targets := o.in[1], o.in[2]
	variant := x.headVariant(w.rows)
	return x.headChunks(o, func(at, rows int, _, logits gpu.Ptr) error {
		offset := gpu.Ptr(at * 4)
		return x.launch(variant, "head_score", gpu.Grid{Blocks: [3]int{rows}, Threads: [3]int{1024}},
			logits, x.ptr(targets)+offset, x.ptr(o.out[0])+offset, x.ptr(o.out[1])+offset, int32(rows), int64(w.rows))
	})
}
