//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"math"

	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// affine is what follows normalising; null where products that read the result have it.
type affine struct{ gain, shift gpu.Ptr }

// norm normalises rows of the residual.
func (d *decoder) norm(x gpu.Ptr, after affine, out gpu.Ptr, rows int) error {
	return d.launchEarly(d.stepVariant(), "decode_norm", gpu.Grid{Blocks: [3]int{(rows + 3) / 4}, Threads: [3]int{128}},
		x, after.gain, after.shift, out, int32(rows), int32(d.plan.cfg.HiddenSize), float32(d.plan.cfg.LayerNormEps))
}

func (d *decoder) geluInner(m *deviceMap, b batch) error {
	return d.launchEarly(d.stepVariant(), "decode_gelu", eights(b.tokens*m.rows), b.inner, m.bias, int32(b.tokens), int32(m.rows), int32(m.rows))
}

// layer takes a batch, whose input is normalised, through a layer, and normalises its
// result.
func (d *decoder) layer(l deviceLayer, b batch, after affine) error {
	if err := d.split(l, b); err != nil {
		return err
	}
	attend := func() error { return d.attendCache(l, b.y) }
	if b.prompts != nil {
		attend = func() error { return d.attendPrompts(l, b) }
	}
	if l.mlpIn == nil {
		return inOrder(attend, func() error { return d.addNormalised(l, b, after) })
	}
	products := d.mlpProducts(l, b)
	return inOrder(
		attend,
		func() error { return d.addNormalised(l, b, affine{}) },
		func() error { return d.multiplyRows(products[0], b.tokens) },
		func() error { return d.geluInner(l.mlpIn, b) },
		func() error { return d.multiplyRows(products[1], b.tokens) },
		func() error { return d.norm(b.x, after, b.normed, b.tokens) },
	)
}

// addNormalised adds a layer's output to the residual, which it normalises.
func (d *decoder) addNormalised(l deviceLayer, b batch, after affine) error {
	if b.prompts == nil && d.many() {
		if done, err := d.manyOut(l, b, after); done || err != nil {
			return err
		}
	}
	return inOrder(
		func() error { return d.multiplyRows(d.outProduct(l, b), b.tokens) },
		func() error { return d.norm(b.x, after, b.normed, b.tokens) },
	)
}

// split makes of the normalised input keys and values in the cache, and queries and
// the inner layer of the MLP in y.
func (d *decoder) split(l deviceLayer, b batch) error {
	if b.prompts == nil && d.many() {
		if done, err := d.manySplit(l, b); done || err != nil {
			return err
		}
	}
	if err := d.multiplyRows(d.splitProduct(l, b), b.tokens); err != nil {
		return err
	}
	if l.kvIn != nil {
		products := d.keyValueProducts(l, b)
		for i, p := range products {
			if err := d.multiplyRows(p, b.tokens); err != nil {
				return err
			}
			if i == 0 {
				if err := d.geluInner(l.kvIn, b); err != nil {
					return err
				}
			}
		}
	}
	return d.splitHeads(l, b, l.query, l.mlp)
}

// unrotated says whether a layer's owner keeps its keys without rotary.
func (d *decoder) unrotated(owner int) bool {
	cfg := d.plan.cfg
	return cfg.SharedKeyRotary == model.RotaryBefore && len(cfg.Owner.Members(owner)) > 1
}

func flag(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// cached are the addresses of an owner's part of the cache.
func (d *decoder) cached(owner int) (keys, values, keyScales, valueScales gpu.Ptr) {
	k, v, ks, vs := d.plan.place(owner)
	at := func(n int64) gpu.Ptr { return d.mem.cache + gpu.Ptr(n) }
	return at(k), at(v), at(ks), at(vs)
}

// splitHeads runs decode_split on keys, values and as many columns of queries and mlp.
func (d *decoder) splitHeads(l deviceLayer, b batch, query, mlp int) error {
	p := d.plan
	_, pairs := p.rotaryShape()
	keys, values, keyScales, valueScales := d.cached(l.owner)
	positions, borrowed := d.mem.position, null
	first, length, tokens := 0, 1, b.tokens
	if b.prompts != nil {
		positions, first, length, borrowed = null, b.prompts.first, b.prompts.length, b.prompts.borrowed[l.owner]
		tokens = b.prompts.rows * length
		if l.kv == 0 {
			borrowed = null
		}
	}
	shared := 0
	if p.bits == 8 {
		shared = l.kv
	}
	return d.launchEarly(d.stepVariant(), "decode_split", gpu.Grid{Blocks: [3]int{tokens}, Threads: [3]int{256}, Shared: shared},
		b.y, int32(layerStride(l)), l.split.bias, int32(l.kv), int32(query), int32(mlp), int32(p.cfg.HeadSize()), d.mem.table, int32(pairs),
		positions, int32(first), int32(length), int32(p.capacity), int32(p.o.Rows), keys, values, keyScales, valueScales, int32(p.capacity),
		flag(d.unrotated(l.owner)), borrowed)
}

// attendCache runs attention of a step's queries, in their place.
func (d *decoder) attendCache(l deviceLayer, y gpu.Ptr) error {
	launch, err := d.attentionLaunch()
	if err != nil {
		return err
	}
	p := d.plan
	_, pairs := p.rotaryShape()
	if !d.turned(l) {
		pairs = 0
	}
	q, stride := d.queries(l, y), int32(layerStride(l))
	keys, values, keyScales, valueScales := d.cached(l.owner)
	scale := float32(math.Log2E / math.Sqrt(float64(p.cfg.HeadSize())))
	if !launch.fast {
		return d.launchEarly(d.cacheVariant(), "decode_attention_plain", gpu.Grid{Blocks: [3]int{p.o.Rows * p.cfg.KVHeads}, Threads: [3]int{256}, Shared: launch.shared},
			q, stride, keys, values, keyScales, valueScales, int32(p.capacity), q, stride, d.mem.seen, int32(p.cfg.Heads), int32(p.cfg.KVHeads), d.mem.table, int32(pairs), scale)
	}
	// Behind the first layer decode_begin is done: what projects a layer's input has
	// waited for all ahead of it before it lets attention begin.
	early := l.split != d.weights.layers[0].split
	name := "decode_attention"
	if launch.wide {
		name += "_wide"
	}
	if pairs > 0 {
		name += "_turn"
	}
	return d.launchEarly(d.cacheVariant(), name, gpu.Grid{Blocks: [3]int{launch.blocks}, Threads: [3]int{launch.threads}, Shared: launch.shared},
		q, stride, keys, values, keyScales, valueScales, int32(p.capacity), q, stride, d.mem.seen, d.mem.places, d.mem.partial, d.mem.arrived,
		int32(p.cfg.Heads), int32(p.cfg.KVHeads), d.mem.table, int32(pairs), scale, flag(early))
}
