//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"mlkv/internal/engine/cuda/gpu"
)

func (x *executor) attentionGrad(o *operation, k attentionGrad) error {
	parts := x.biasParts(o, k)
	var err error
	if ordered(k.Attention, x.sizes(), x.info) {
		err = x.orderedGrad(o, k, parts)
	} else if err = x.queryGrad(o, k, parts[0]); err == nil {
		err = x.keyValueGrad(o, k, parts)
	}
	if err != nil || !k.bias {
		return err
	}
	c, err := x.kernels.constants(x.attentionVariant(k.Attention), "attention_part_rows", 1)
	if err != nil {
		return err
	}
	return x.addParts(o.temp[1], biasParts(k.Attention, o.in[0].rows, int(c[0])), o.out[len(o.out)-1])
}

// keyValueSums are where the gradients of keys and values go: dk and dv, or null
// where only the sums over several layers grow, then these sums, or null.
type keyValueSums struct {
	dk, dv, dkSum, dvSum          gpu.Ptr
	dkStride, dvStride, sumStride int32
}

func (x *executor) keyValueSums(o *operation, k attentionGrad) (s keyValueSums) {
	if k.writes() {
		dk, dv := o.out[1], o.out[2]
		s.dk, s.dv, s.dkStride, s.dvStride = x.ptr(dk), x.ptr(dv), int32(dk.stride), int32(dv.stride)
	}
	if k.sharing != alone {
		s.dkSum, s.dvSum, s.sumStride = x.ptr(o.in[6]), x.ptr(o.in[7]), int32(o.in[6].stride)
	}
	return s
}

// orderedGrad makes delta and clears the flags, then dq, dk and dv by one kernel.
func (x *executor) orderedGrad(o *operation, k attentionGrad, parts [3]gpu.Ptr) error {
	q, key, v, y, lse, dy, dq := o.in[0], o.in[1], o.in[2], o.in[3], o.in[4], o.in[5], o.out[0]
	delta, rest, kept := o.temp[0], o.temp[1:], null
	if k.bias {
		rest = rest[1:]
	}
	sums, flags := rest[0], rest[1]
	if k.Heads > k.KVHeads {
		kept = x.ptr(rest[2])
	}
	variant, batch, length, heads := x.attentionVariant(k.Attention), q.rows/k.Length, int32(k.Length), int32(k.Heads)
	blocks := (k.Length + deltaRows - 1) / deltaRows * batch * k.Heads
	if err := x.launch(variant, "attention_backward_delta", gpu.Grid1(blocks*256, 256),
		x.ptr(y), x.ptr(dy), x.ptr(delta), x.ptr(flags), int32(flags.size()), length, heads, int32(y.stride), int32(dy.stride)); err != nil {
		return err
	}
	grid, err := x.attentionGrid(k.Attention, 3, (batch*k.KVHeads+1)/2)
	if err != nil {
		return err
	}
	queryTable, err := x.turns(k, k.turnQuery)
	if err != nil {
		return err
	}
	keyTable, err := x.turns(k, k.turnKey)
	if err != nil {
		return err
	}
	s := x.keyValueSums(o, k)
	return x.launch(variant, "attention_backward_ordered", grid,
		x.ptr(q), x.ptr(key), x.ptr(v), x.ptr(dy), x.ptr(lse), x.ptr(delta), x.ptr(sums), x.ptr(flags), kept, x.ptr(dq), s.dk, s.dv, s.dkSum, s.dvSum,
		queryTable, keyTable, parts[0], parts[1], parts[2], int32(batch), length, heads, int32(k.KVHeads),
		int32(q.stride), int32(key.stride), int32(v.stride), int32(dy.stride), int32(dq.stride), s.dkStride, s.dvStride, s.sumStride,
		partsStride(o, k), int32(k.sharing), attentionScale(k.Attention))
}

// queryGrad makes delta and dq.
func (x *executor) queryGrad(o *operation, k attentionGrad, parts gpu.Ptr) error {
	q, key, v, y, lse, dy, dq := o.in[0], o.in[1], o.in[2], o.in[3], o.in[4], o.in[5], o.out[0]
	batch := q.rows / k.Length
	grid, err := x.attentionGrid(k.Attention, 1, batch*k.Heads)
	if err != nil {
		return err
	}
	table, err := x.turns(k, k.turnQuery)
	if err != nil {
		return err
	}
	return x.launch(x.attentionVariant(k.Attention), "attention_backward_query", grid,
		x.ptr(q), x.ptr(key), x.ptr(v), x.ptr(y), x.ptr(dy), x.ptr(lse), x.ptr(o.temp[0]), x.ptr(dq), table, parts,
		int32(batch), int32(k.Length), int32(k.Heads), int32(k.KVHeads),
		int32(q.stride), int32(key.stride), int32(v.stride), int32(y.stride), int32(dy.stride), int32(dq.stride),
		partsStride(o, k), attentionScale(k.Attention))
}

// keyValueGrad makes dk and dv, after queryGrad.
func (x *executor) keyValueGrad(o *operation, k attentionGrad, parts [3]gpu.Ptr) error {
	q, key, v, lse, dy := o.in[0], o.in[1], o.in[2], o.in[4], o.in[5]
	batch := q.rows / k.Length
	grid, err := x.attentionGrid(k.Attention, 2, batch*k.KVHeads)
	if err != nil {
		return err
	}
	table, err := x.turns(k, k.turnKey)
	if err != nil {
		return err
	}
	s := x.keyValueSums(o, k)
	return x.launch(x.attentionVariant(k.Attention), "attention_backward_key_value", grid,
		x.ptr(q), x.ptr(key), x.ptr(v), x.ptr(dy), x.ptr(lse), x.ptr(o.temp[0]), s.dk, s.dv, s.dkSum, s.dvSum, table, parts[1], parts[2],
		int32(batch), int32(k.Length), int32(k.Heads), int32(k.KVHeads),
		int32(q.stride), int32(key.stride), int32(v.stride), int32(dy.stride), s.dkStride, s.dvStride, s.sumStride,
		partsStride(o, k), int32(k.sharing), attentionScale(k.Attention))
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
