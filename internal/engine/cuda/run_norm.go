//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

func (d *device) normVariant(cols int) variant {
	return d.variant("layernorm.cu", fmt.Sprintf("HIDDEN=%d", cols))
}

// statistics are the addresses of means and reciprocal deviations.
func (x *executor) statistics(m *matrix) (mean, rstd gpu.Ptr) {
	mean = x.ptr(m)
	return mean, mean + gpu.Ptr(m.cols*4)
}

// normLaunch is what the module says of its launches: rows and threads of a
// forward block, threads of a backward block.
type normLaunch struct{ rows, forward, backward int }

func (x *executor) normLaunch(v variant) (normLaunch, error) {
	c, err := x.kernels.constants(v, "layernorm_launch", 3)
	if err != nil {
		return normLaunch{}, err
	}
	return normLaunch{int(c[0]), int(c[1]), int(c[2])}, nil
}

func (x *executor) norms(o *operation, k norms) error {
	m, v := o.in[0], x.normVariant(o.in[0].cols)
	launch, err := x.normLaunch(v)
	if err != nil {
		return err
	}
	second := [3]gpu.Ptr{}
	if len(o.in) == 5 {
		second = [3]gpu.Ptr{x.ptr(o.in[3]), x.ptr(o.in[4]), x.ptr(o.out[1])}
	}
	mean, rstd := x.statistics(o.out[len(o.out)-1])
	return x.launch(v, "layernorm_forward", gpu.Grid{Blocks: [3]int{(m.rows + launch.rows - 1) / launch.rows}, Threads: [3]int{launch.forward}},
		x.ptr(m), x.ptr(o.in[1]), x.ptr(o.in[2]), x.ptr(o.out[0]), second[0], second[1], second[2],
		mean, rstd, int32(m.rows), float32(k.eps))
}

func (x *executor) normsGrad(o *operation, k normsGrad) error {
	m, v, parts := o.in[0], x.normVariant(o.in[0].cols), o.temp[0]
	launch, err := x.normLaunch(v)
	if err != nil {
		return err
	}
	mean, rstd := x.statistics(o.in[1])
	rest := x.optional(k.add, func() *matrix { return o.in[len(o.in)-1] })
	name, args := "layernorm_backward", []any{x.ptr(m), mean, rstd, x.ptr(o.in[3]), x.ptr(o.in[2])}
	if k.count == 2 {
		name, args = "layernorm_backward_two", append(args, x.ptr(o.in[5]), x.ptr(o.in[4]))
	}
	args = append(args, rest, x.ptr(o.out[0]), x.ptr(parts), int32(m.rows))
	if err := x.launch(v, name, gpu.Grid{Blocks: [3]int{parts.rows}, Threads: [3]int{launch.backward}}, args...); err != nil {
		return err
	}
	// Gains and biases of two norms, then the biases of two linear maps.
	var to [6]gpu.Ptr
	for i, g := range o.out[1:] {
		if i >= 2*k.count {
			i += 4 - 2*k.count
		}
		to[i] = x.ptr(g)
	}
	return x.launch(v, "layernorm_backward_add", gpu.Grid{Blocks: [3]int{(m.cols + 31) / 32, 6}, Threads: [3]int{32, 32}},
		x.ptr(parts), int32(parts.rows), to[0], to[1], to[2], to[3], to[4], to[5])
}
