//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"mlkv/internal/engine/cuda/gpu"
)

func (d *device) linearVariant() variant { return d.variant("linear.cu", "") }

// typeOf is how a matrix is stored.
func (x *executor) typeOf(m *matrix) gpu.Type {
	if m.elem == activation {
		return x.elem
	}
	return gpu.Float32
}

// describe is an operation's product as cuBLASLt is asked for it. Gradients of
// parameters are added where they are.
func (x *executor) describe(o *operation, k product) gpu.Product {
	a, b, d := o.in[0], o.in[1], o.out[0]
	p := gpu.Product{
		M: a.rows, K: a.cols, N: b.cols, TransA: k.transA, TransB: k.transB,
		In: x.typeOf(a), Out: x.typeOf(d), Add: k.add || d.role == gradient && x.adds(o),
		StrideA: stride(a), StrideB: stride(b), StrideD: stride(d), Whole: x.segments != nil,
	}
	if k.transA {
		p.M, p.K = a.cols, a.rows
	}
	if k.transB {
		p.N = b.rows
	}
	if k.add {
		p.StrideC = stride(o.in[2])
	} else if p.Add {
		p.StrideC = p.StrideD
	}
	if k.bias {
		p.Vector, p.VectorType = gpu.AddBias, x.elem
	}
	return p
}

// stride is what a product is told: nothing where rows follow each other.
func stride(m *matrix) int {
	if m.dense() {
		return 0
	}
	return m.stride
}

func (x *executor) multiply(o *operation, k product) error {
	operands := gpu.Operands{A: x.ptr(o.in[0]), B: x.ptr(o.in[1]), D: x.ptr(o.out[0]), Workspace: x.base.workspace}
	operands.C = operands.D
	if k.add {
		operands.C = x.ptr(o.in[2])
	}
	if k.bias {
		operands.Vector = x.ptr(o.in[len(o.in)-1])
	}
	p := x.describe(o, k)
	if x.pairs {
		return x.multiplyPairs(p, operands, x.ptr(o.temp[0]))
	}
	return x.runProduct(p, operands)
}

// runProduct puts a product into the stream.
func (x *executor) runProduct(p gpu.Product, o gpu.Operands) error {
	m, err := x.product(p)
	if err != nil {
		return err
	}
	return m.Run(x.stream, o)
}

// columns is the grid of kernels that walk over a share of the rows in blocks of
// 256 columns.
func columns(cols, parts int) gpu.Grid {
	return gpu.Grid{Blocks: [3]int{(cols + 255) / 256, parts}, Threads: [3]int{32, 8}}
}

func (x *executor) columnSum(o *operation) error {
	m, parts := o.in[0], o.temp[0]
	if err := x.launch(x.linearVariant(), "bias_gradient_parts", columns(m.cols, parts.rows),
		x.ptr(m), x.ptr(parts), int32(m.rows), int32(m.cols), int32(m.stride)); err != nil {
		return err
	}
	return x.addParts(parts, parts.rows, o.out[0])
}

// addParts adds the first rows of parts, count of them, to a gradient.
func (x *executor) addParts(parts *matrix, count int, gradient *matrix) error {
	return x.launch(x.linearVariant(), "bias_gradient_add",
		gpu.Grid{Blocks: [3]int{(parts.cols + 31) / 32}, Threads: [3]int{32, 32}},
		x.ptr(parts), x.ptr(gradient), int32(count), int32(parts.cols))
}
