//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

func (d *device) geluVariant() variant { return d.variant("gelu.cu", "") }

func (d *device) sumVariant(cols int) variant {
	return d.variant("residual.cu", fmt.Sprintf("HIDDEN=%d", cols))
}

// eights is the grid of kernels whose threads take eight elements each.
func eights(size int) gpu.Grid { return gpu.Grid1((size+7)/8, 256) }

// optional is the address of an operand that may be absent.
func (x *executor) optional(has bool, m func() *matrix) gpu.Ptr {
	if !has {
		return null
	}
	return x.ptr(m())
}

func (x *executor) gelu(o *operation, k gelu) error {
	m := o.in[0]
	bias := x.optional(k.bias, func() *matrix { return o.in[1] })
	return x.launch(x.geluVariant(), "gelu_forward", eights(m.size()),
		x.ptr(m), bias, x.ptr(o.out[0]), int32(m.rows), int32(m.cols), int32(o.out[0].stride))
}

func (x *executor) geluGrad(o *operation, k geluGrad) error {
	m, dy := o.in[0], o.in[len(o.in)-1]
	bias := x.optional(k.bias, func() *matrix { return o.in[1] })
	sums := len(o.out) == 2
	parts := x.optional(sums, func() *matrix { return o.temp[0] })
	if err := x.launch(x.geluVariant(), "gelu_backward", columns(m.cols, columnParts(m.rows, m.cols, x.info.SMs)),
		x.ptr(dy), x.ptr(m), bias, x.ptr(o.out[0]), parts, int32(m.rows), int32(m.cols), int32(dy.stride), int32(o.out[0].stride)); err != nil || !sums {
		return err
	}
	return x.addParts(o.temp[0], o.temp[0].rows, o.out[1])
}

// sum adds two terms to a first one in each launch.
func (x *executor) sum(o *operation) error {
	out := o.out[0]
	for _, m := range append(o.in, out) {
		if !m.dense() || m.elem != activation {
			return fmt.Errorf("sum: %v has rows apart or is no activation", m)
		}
	}
	acc, rest := x.ptr(o.in[0]), o.in[1:]
	for len(rest) > 0 {
		terms := [2]gpu.Ptr{x.ptr(rest[0]), null}
		rest = rest[1:]
		if len(rest) > 0 {
			terms[1], rest = x.ptr(rest[0]), rest[1:]
		}
		if err := x.launch(x.sumVariant(out.cols), "residual_forward", eights(out.size()),
			acc, terms[0], terms[1], null, null, x.ptr(out), int32(out.rows)); err != nil {
			return err
		}
		acc = x.ptr(out)
	}
	return nil
}
