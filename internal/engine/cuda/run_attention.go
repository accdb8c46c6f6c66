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

// attentionGrid is the launch of one of the three attention kernels, as the
// module tells: threads, shared memory, rows of a tile, blocks along y.
func (x *executor) attentionGrid(o op.Attention, which, pairs int) (gpu.Grid, error) {
	c, err := x.kernels.constants(x.attentionVariant(o), "attention_launch", 12)
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

func (x *executor) attentionGrad(o *operation, k attentionGrad) error {
	q, key, v, y, lse, dy := o.in[0], o.in[1], o.in[2], o.in[3], o.in[4], o.in[5]
	variant, delta, dq := x.attentionVariant(k.Attention), o.temp[0], o.out[0]
	batch := q.rows / k.Length
	shape := []any{int32(batch), int32(k.Length), int32(k.Heads), int32(k.KVHeads)}
	grid, err := x.attentionGrid(k.Attention, 1, batch*k.Heads)
	if err != nil {
		return err
	}
	table, err := x.turns(k, k.turnQuery)
	if err != nil {
		return err
	}
	parts := x.biasParts(o, k)
	args := append([]any{x.ptr(q), x.ptr(key), x.ptr(v), x.ptr(y), x.ptr(dy), x.ptr(lse), x.ptr(delta), x.ptr(dq), table, parts[0]}, shape...)
	args = append(args, int32(q.stride), int32(key.stride), int32(v.stride), int32(y.stride), int32(dy.stride), int32(dq.stride),
		partsStride(o, k), attentionScale(k.Attention))
	if err := x.launch(variant, "attention_backward_query", grid, args...); err != nil {
		return err
	}
	if err := x.keyValueGrad(o, k, variant, shape, parts); err != nil || !k.bias {
		return err
	}
	c, err := x.kernels.constants(variant, "attention_part_rows", 1)
	if err != nil {
		return err
	}
	return x.addParts(o.temp[1], biasParts(k.Attention, q.rows, int(c[0])), o.out[len(o.out)-1])
}

// turns is the table of the angles by which a gradient is turned back.
func (d *device) turns(k attentionGrad, on bool) (gpu.Ptr, error) {
	if !on {
		return null, nil
	}
	return d.table(k.turn)
}

// biasParts are the addresses of the sums of rows of dq, dk and dv, which lie side
// by side.
func (x *executor) biasParts(o *operation, k attentionGrad) (parts [3]gpu.Ptr) {
	if !k.bias {
		return parts
	}
	at := x.ptr(o.temp[1])
	for i, m := range o.out[:len(o.out)-1] {
		parts[i] = at
		at += gpu.Ptr(m.cols * 4)
	}
	return parts
}

func partsStride(o *operation, k attentionGrad) int32 {
	if !k.bias {
		return 0
	}
	return int32(o.temp[1].stride)
}

func (x *executor) keyValueGrad(o *operation, k attentionGrad, variant variant, shape []any, parts [3]gpu.Ptr) error {
	q, key, v, lse, dy := o.in[0], o.in[1], o.in[2], o.in[4], o.in[5]
	var dk, dv, sumk, sumv gpu.Ptr
	var dkStride, dvStride, sumStride int
	if k.writes() {
		dk, dv, dkStride, dvStride = x.ptr(o.out[1]), x.ptr(o.out[2]), o.out[1].stride, o.out[2].stride
	}
	if k.sharing != alone {
		sumk, sumv, sumStride = x.ptr(o.in[6]), x.ptr(o.in[7]), o.in[6].stride
	}
	grid, err := x.attentionGrid(k.Attention, 2, q.rows/k.Length*k.KVHeads)
	if err != nil {
		return err
	}
	table, err := x.turns(k, k.turnKey)
	if err != nil {
		return err
	}
	args := append([]any{x.ptr(q), x.ptr(key), x.ptr(v), x.ptr(dy), x.ptr(lse), x.ptr(o.temp[0]), dk, dv, sumk, sumv, table, parts[1], parts[2]}, shape...)
	args = append(args, int32(q.stride), int32(key.stride), int32(v.stride), int32(dy.stride),
		int32(dkStride), int32(dvStride), int32(sumStride), partsStride(o, k), int32(k.sharing), attentionScale(k.Attention))
	return x.launch(variant, "attention_backward_key_value", grid, args...)
}
