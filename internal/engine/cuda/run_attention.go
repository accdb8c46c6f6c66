//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"math"

	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/op"
)

func (d *device) rotaryVariant() variant { return d.variant("rotary.cu", "") }

func (d *device) attentionVariant(o op.Attention) variant {
	return d.variant("attention.cu", fmt.Sprintf("HEAD_SIZE=%d", o.HeadSize))
}

// tableKey tells the tables of cosines and sines apart.
type tableKey struct {
	length, dims int
	base         float64
}

// table is the cosine and sine of every position and pair of channels.
func (d *device) table(k op.Rotary) (gpu.Ptr, error) {
	key := tableKey{k.Length, k.Dims, k.Base}
	pairs := k.Dims / 2
	size := int64(k.Length) * int64(pairs) * 8
	if a := d.tables[key]; a != nil {
		return a.At(0, size), nil
	}
	a, err := gpu.NewArena(size)
	if err != nil {
		return null, err
	}
	d.tables[key] = a
	return a.At(0, size), d.launch(d.rotaryVariant(), "rotary_table", gpu.Grid1(k.Length*pairs, 256),
		a.At(0, size), int32(k.Length), int32(pairs), float32(k.Base))
}

// rotate turns heads in place, after a copy where the operand stays. Operands
// after the first lie beside it.
func (x *executor) rotate(o *operation, k rotary) error {
	in, out := o.in[0], o.out[0]
	if x.ptr(in) != x.ptr(out) {
		size := x.sizes().of(activation)
		if err := x.stream.CopyRows(x.ptr(out), int64(out.stride)*size, x.ptr(in), int64(in.stride)*size,
			int64(in.cols)*size, in.rows); err != nil {
			return err
		}
	}
	cols := 0
	for _, m := range o.in {
		cols += m.cols
	}
	direction := float32(1)
	if k.Inverse {
		direction = -1
	}
	table, err := x.table(k.Rotary)
	if err != nil {
		return err
	}
	heads, pairs := cols/k.HeadSize, k.Dims/2
	threads := pairs // for a head
	if pairs%lanes == 0 {
		threads = pairs / lanes
	}
	if x.segments != nil {
		return x.launch(x.rotaryVariant(), "rotary_at", gpu.Grid1(out.rows*heads*threads, 256),
			x.ptr(out), table, x.segments.positions, int32(out.rows), int32(heads), int32(k.HeadSize), int32(pairs), int32(out.stride))
	}
	return x.launch(x.rotaryVariant(), "rotary", gpu.Grid1(out.rows*heads*threads, 256),
		x.ptr(out), table, int32(out.rows), int32(k.Length), int32(heads), int32(k.HeadSize), int32(pairs),
		int32(out.stride), direction)
}

// attentionGrid is the launch of one of the attention kernels, as the
// module tells: threads, shared memory, rows of a tile, blocks along y.
func (x *executor) attentionGrid(o op.Attention, which, pairs int) (gpu.Grid, error) {
	c, err := x.kernels.constants(x.attentionVariant(o), "attention_launch", 16)
	if err != nil {
		return gpu.Grid{}, err
	}
	threads, shared, rows, y := int(c[4*which]), int(c[4*which+1]), int(c[4*which+2]), int(c[4*which+3])
	resident := 2
	if shared > 100<<10 {
		resident = 1
	}
	blocks := min(x.info.SMs*resident, (o.Length+rows-1)/rows*pairs)
	return gpu.Grid{Blocks: [3]int{blocks, y}, Threads: [3]int{threads}, Shared: shared}, nil
}

func attentionScale(o op.Attention) float32 { return float32(1 / math.Sqrt(float64(o.HeadSize))) }

func (x *executor) attend(o *operation, k attention) error {
	if x.segments != nil {
		return x.attendSegments(o, k)
	}
	q, key, v, y := o.in[0], o.in[1], o.in[2], o.out[0]
	batch := q.rows / k.Length
	grid, err := x.attentionGrid(k.Attention, 0, batch*k.Heads)
	if err != nil {
		return err
	}
	return x.launch(x.attentionVariant(k.Attention), "attention_forward", grid,
		x.ptr(q), x.ptr(key), x.ptr(v), x.ptr(y), x.ptr(o.out[1]),
		int32(batch), int32(k.Length), int32(k.Heads), int32(k.KVHeads),
		int32(q.stride), int32(key.stride), int32(v.stride), int32(y.stride), attentionScale(k.Attention))
}
