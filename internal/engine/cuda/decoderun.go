//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

// advance takes a step's tokens to logits and hands these over as project does.
func (d *decoder) advance(each func(first, rows int) error) error {
	if d.whole != nil {
		return inOrder(func() error { return d.runWhole(null) }, func() error { return each(0, d.plan.o.Rows) })
	}
	return inOrder(d.forward, func() error { return d.project(each) })
}

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
		int32(p.cfg.KVHeads), int32(launch.unit), int32(launch.rest), d.mem.places, int32(launch.teams)); err != nil {
		return err
	}
	b := batch{tokens: p.o.Rows, x: d.mem.x, normed: d.mem.normed, y: d.mem.y, inner: d.mem.inner}
	return d.layers(b)
}

// layers takes a batch from its embeddings to what the vocabulary's product reads.
func (d *decoder) layers(b batch) error {
	if err := d.norm(b.x, affine{}, b.normed, b.tokens); err != nil {
		return err
	}
	for i, l := range d.weights.layers {
		var after affine
		if i == len(d.weights.layers)-1 {
			after = d.weights.last
		}
		if err := d.layer(l, b, after); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

// project computes the logits of every row of normed, a chunk of rows at a time, and
// hands each chunk over, [rows, vocab] from the row first.
func (d *decoder) project(each func(first, rows int) error) error {
	p, cfg := d.plan, d.plan.cfg
	return chunks(p.o.Rows, p.head, func(first, rows int) error {
		product := d.headProduct()
		product.in = d.offset(product.in, first*cfg.HiddenSize)
		if err := d.multiplyRows(product, rows); err != nil {
			return err
		}
		return each(first, rows)
	})
}
