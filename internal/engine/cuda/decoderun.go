//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

// forward takes a step's tokens through the layers.
func (d *decoder) forward() error {
	p := d.plan
	launch, err := d.attentionLaunch()
	if err != nil {
		return err
	}
	pieces := p.o.Rows * p.cfg.HiddenSize / lanes
	if err := d.launchEarly(d.stepVariant(), "decode_begin", gpu.Grid{Blocks: [3]int{1 + (pieces+1023)/1024}, Threads: [3]int{1024}},
		d.mem.tokens, d.weights.embed, d.mem.x, d.mem.seen, d.mem.position, d.mem.sampling+samplingStep, int32(p.o.Rows), int32(p.cfg.HiddenSize),
		int32(p.cfg.KVHeads), int32(launch.unit), d.mem.places, int32(launch.teams)); err != nil {
		return err
	}
	few := d.few()
	b := batch{tokens: p.o.Rows, x: d.mem.x, normed: d.mem.normed, y: d.mem.y, inner: d.mem.inner}
	for i, l := range d.weights.layers {
		if few {
			err = d.fewLayer(l)
		} else {
			err = d.layer(l, b)
		}
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

// fewName is a kernel for up to 8 rows, or up to 16.
func (d *decoder) fewName(name string) string {
	if d.plan.o.Rows > 8 {
		return name + "_wide"
	}
	return name
}

// fewLayer is layer for few rows: three kernels.
func (d *decoder) fewLayer(l deviceLayer) error {
	p := d.plan
	_, pairs := p.rotaryShape()
	rows, hidden, stride := p.o.Rows, p.cfg.HiddenSize, layerStride(l)
	keys, values, _, _ := d.cached(l.owner)
	return inOrder(
		func() error {
			return d.launchEarly(d.linearFile(), d.fewName("decode_few_split"),
				gpu.Grid{Blocks: [3]int{(l.split.rows + 15) / 16}, Threads: [3]int{256}, Shared: fewShared(rows, hidden) + 8*rows*pairs},
				d.mem.x, l.split.weight, l.split.bias, d.mem.y, int32(stride), int32(rows), int32(hidden), float32(p.cfg.LayerNormEps),
				int32(l.kv), int32(l.query), int32(l.mlp), int32(p.cfg.HeadSize()), d.mem.table, int32(pairs), d.mem.position, keys, values, int32(p.capacity),
				flag(d.unrotated(l.owner)))
		},
		func() error { return d.attendCache(l, d.mem.y) },
		func() error {
			return d.launchEarly(d.linearFile(), d.fewName("decode_few_add"),
				gpu.Grid{Blocks: [3]int{(l.out.rows + 7) / 8}, Threads: [3]int{512}, Shared: fewShared(rows, l.out.cols)},
				d.queries(l, d.mem.y), int32(stride), l.out.weight, l.out.bias, d.mem.x, int32(rows), int32(l.out.rows), int32(l.out.cols))
		},
	)
}

// project computes the logits of every row, a chunk of rows at a time, and hands
// each chunk over, [rows, vocab] from the row first.
func (d *decoder) project(each func(first, rows int) error) error {
	p, cfg := d.plan, d.plan.cfg
	if d.few() {
		blocks := min((cfg.VocabSize+15)/16, 2*d.info.SMs)
		if err := d.launchEarly(d.linearFile(), d.fewName("decode_few_logits"), gpu.Grid{Blocks: [3]int{blocks}, Threads: [3]int{256}, Shared: fewShared(p.o.Rows, cfg.HiddenSize)},
			d.mem.x, d.weights.gain, d.weights.shift, d.weights.head, d.mem.logits, int32(p.o.Rows), int32(cfg.VocabSize), int32(cfg.HiddenSize),
			float32(cfg.LayerNormEps)); err != nil {
			return err
		}
		return each(0, p.o.Rows)
	}
	if err := d.norm(d.mem.x, d.weights.gain, d.weights.shift, d.mem.normed, p.o.Rows); err != nil {
		return err
	}
	return chunks(p.o.Rows, p.head, func(first, rows int) error {
		product := d.headProduct()
		product.in = d.offset(product.in, first*cfg.HiddenSize)
		if err := d.multiplyRows(product, rows); err != nil {
			return err
		}
		return each(first, rows)
	})
}
