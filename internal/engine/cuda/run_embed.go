//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"mlkv/internal/engine/cuda/gpu"
)

func (d *device) embedVariant() variant { return d.variant("embed.cu", "") }

// lookUp copies the rows of a table that index names.
func (x *executor) lookUp(index, table, out *matrix) error {
	return x.launch(x.embedVariant(), "embed_forward", eights(out.size()),
		x.ptr(index), x.ptr(table), x.ptr(out), int32(out.rows), int32(out.cols))
}

// embeddingGrad sorts the positions by token in two passes of eight bits, so
// that the terms of a row are added in the order of the positions.
func (x *executor) embeddingGrad(o *operation) error {
	v, n := x.embedVariant(), o.in[0].cols
	counts := o.temp[4]
	keys, positions := x.ptr(o.in[0]), null
	grid := gpu.Grid{Blocks: [3]int{counts.cols}, Threads: [3]int{sortBlock}}
	for pass := range 2 {
		shift := int32(8 * pass)
		toKeys, toPositions := x.ptr(o.temp[2*pass]), x.ptr(o.temp[2*pass+1])
		if err := x.launch(v, "embed_sort_count", grid, keys, x.ptr(counts), int32(n), shift); err != nil {
			return err
		}
		if err := x.launch(v, "embed_sort_scan", gpu.Grid{Threads: [3]int{1024}}, x.ptr(counts), int32(counts.size())); err != nil {
			return err
		}
		if err := x.launch(v, "embed_sort_scatter", grid, keys, positions, toKeys, toPositions, x.ptr(counts), int32(n), shift); err != nil {
			return err
		}
		keys, positions = toKeys, toPositions
	}
	dy, first, last := o.in[1], o.temp[5], o.temp[6]
	sums := gpu.Grid{Blocks: [3]int{first.rows, (dy.cols + 1023) / 1024}, Threads: [3]int{128}}
	if err := x.launch(v, "embed_backward", sums, keys, positions, x.ptr(dy), x.ptr(o.out[0]), x.ptr(first), x.ptr(last),
		int32(n), int32(dy.cols)); err != nil {
		return err
	}
	return x.launch(v, "embed_backward_join", sums, keys, x.ptr(o.out[0]), x.ptr(first), x.ptr(last), int32(n), int32(dy.cols))
}
