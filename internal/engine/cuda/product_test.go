//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"cmp"
	_ "embed"
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

//go:embed testdata/product.cu
var plainProductSource string

// plainProduct stands in for cuBLASLt's product, whose kernels for Hopper do not
// run under racecheck (tools/sanitize-gpu.sh).
type plainProduct struct {
	dev *device
	p   gpu.Product
}

// usePlainProducts makes a device's products by a kernel of the tests.
func usePlainProducts(d *device) {
	d.kernels.programs["product.cu"] = plainProductSource
	d.plan = func(p gpu.Product) (matmul, error) { return plainProduct{d, p}, nil }
}

func (m plainProduct) Run(s gpu.Stream, o gpu.Operands) error {
	p := m.p
	name := map[gpu.Type]string{gpu.Float32: "float", gpu.BFloat16: "bf16"}
	v := variant{"product.cu", fmt.Sprintf("IN=%s OUT=%s VECTOR=%s", name[p.In], name[p.Out], name[p.VectorType])}
	// steps are what a row and a column of an operand are apart.
	steps := func(rows, cols, stride int, trans bool) (int32, int32) {
		if trans {
			return 1, int32(cmp.Or(stride, rows))
		}
		return int32(cmp.Or(stride, cols)), 1
	}
	aRow, aColumn := steps(p.M, p.K, p.StrideA, p.TransA)
	bRow, bColumn := steps(p.K, p.N, p.StrideB, p.TransB)
	var c, bias gpu.Ptr
	if p.Add {
		c = o.C
	}
	if p.Vector == gpu.AddBias {
		bias = o.Vector
	}
	k, err := m.dev.kernels.kernel(v, "product")
	if err != nil {
		return err
	}
	return k.Launch(s, gpu.Grid{Blocks: [3]int{(p.N + 31) / 32, (p.M + 7) / 8}, Threads: [3]int{32, 8}}, o.A, o.B, c, o.D, bias,
		int32(p.M), int32(p.N), int32(p.K), aRow, aColumn, bRow, bColumn, int32(cmp.Or(p.StrideC, p.N)), int32(cmp.Or(p.StrideD, p.N)))
}

func (plainProduct) Close() {}
