//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import "mlkv/internal/engine/cuda/gpu"

// A device with pairs stores activations in float32 and multiplies in bf16: each
// operand of a product is the sum of a high and a low bf16 (pairs.cu), and a
// product is three, high * high + high * low + low * high. What is left out,
// low * low, is below the rounding of the pairs. A matrix of weights is stored as
// pairs, [rows, 2, columns] with the high parts first.

// paired is an engine on the same device that scores in bf16: by pairs.
func (e *Engine) paired() *Engine {
	if e.o.Float32 {
		return e
	}
	dev, o := *e.dev, e.o
	dev.elem, dev.pairs, o.Float32 = gpu.Float32, true, true
	return &Engine{&dev, o}
}

// needPairs gives every product the room for the pairs of its left operand.
func needPairs(p *program) {
	for _, o := range p.ops {
		rows := o.in[0].rows
		switch o.kind.(type) {
		case product:
		case score:
			rows = min(rows, scoreRows)
		default:
			continue
		}
		o.temp = append(o.temp, newMatrix("pairs", rows, o.in[0].cols, float))
	}
}

func (d *device) pairsVariant() variant { return d.variant("pairs.cu", "") }

// splitPairs writes the pairs of a float32 matrix.
func (d *device) splitPairs(from, to gpu.Ptr, rows, cols, stride int, highFirst bool) error {
	first := int32(0)
	if highFirst {
		first = 1
	}
	return d.launch(d.pairsVariant(), "split_pairs", eights(rows*cols), from, to, int32(rows), int32(cols), int32(stride), first)
}

// pairProducts are the two that make up a product with weights, A B', of float32
// numbers. The first takes rows [low, high] of A by rows [high, low] of B and all
// that p adds, the second adds high by high.
func pairProducts(p gpu.Product) (small, large gpu.Product) {
	small = p
	small.In, small.K, small.StrideA, small.StrideB = gpu.BFloat16, 2*p.K, 0, 0
	large = small
	large.K, large.StrideA, large.StrideB = p.K, small.K, small.K
	large.Add, large.StrideC = true, p.StrideD
	large.Vector, large.VectorType = gpu.NoVector, 0
	return small, large
}

// parts are the products that the device makes of one with weights.
func (d *device) parts(p gpu.Product) []gpu.Product {
	if !d.pairs {
		return []gpu.Product{p}
	}
	small, large := pairProducts(p)
	return []gpu.Product{small, large}
}

// multiplyPairs runs a product of a float32 matrix A with weights; the pairs of A
// go to scratch.
func (x *executor) multiplyPairs(p gpu.Product, o gpu.Operands, scratch gpu.Ptr) error {
	small, large := pairProducts(p)
	if err := x.splitPairs(o.A, scratch, p.M, p.K, max(p.StrideA, p.K), false); err != nil {
		return err
	}
	o.A = scratch
	if err := x.runProduct(small, o); err != nil {
		return err
	}
	o.A += gpu.Ptr(int64(p.K) * gpu.BFloat16.Size())
	o.C = o.D
	return x.runProduct(large, o)
}

// lookUpPairs copies the rows of a table of weights that index names.
func (x *executor) lookUpPairs(index, table, out *matrix) error {
	return x.launch(x.pairsVariant(), "embed_pairs", eights(out.size()),
		x.ptr(index), x.ptr(table), x.ptr(out), int32(out.rows), int32(out.cols))
}
