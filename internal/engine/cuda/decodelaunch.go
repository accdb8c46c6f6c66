//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// stepVariant, linearFile, sampleFile and cacheVariant are the kernel files of a step.
func (d *decoder) stepVariant() variant {
	return d.variant("decode.cu", fmt.Sprintf("CACHE=%d", d.plan.bits))
}
func (d *decoder) linearFile() variant { return d.variant("decode_linear.cu", "") }
func (d *decoder) sampleFile() variant { return d.variant("decode_sample.cu", "") }
func (d *decoder) cacheVariant() variant {
	return d.variant("decode_attention.cu", fmt.Sprintf("HEAD_SIZE=%d CACHE=%d", d.plan.cfg.HeadSize(), d.plan.bits))
}

// decodeLaunch is how attention over the cache is launched.
type decodeLaunch struct {
	fast              bool // by decode_attention, else by decode_attention_plain
	blocks, threads   int
	teams, unit, slot int // in all; see decode_attention.cu
	rest              int // units that the end of a head counts for
	wide              bool
	shared            int
}

// partialBytes is the room that teams need for heads that they share.
func (l decodeLaunch) partialBytes(cfg model.Config) int64 {
	return 2 * int64(l.teams) * int64(cfg.Heads/cfg.KVHeads) * int64(l.slot) * 4
}

// attentionLaunch chooses the kernel: the fast one has no order of addition that is
// the same for a row in every batch, as float32 asks for.
func (d *decoder) attentionLaunch() (decodeLaunch, error) {
	cfg := d.plan.cfg
	group, size := cfg.Heads/cfg.KVHeads, cfg.HeadSize()
	l := decodeLaunch{wide: group > 8, shared: 4 * (group*(256+2*size) + 2*group)}
	if d.elem == gpu.Float32 || group > 16 || size != 64 && size != 128 {
		return l, nil
	}
	c, err := d.kernels.constants(d.cacheVariant(), "decode_attention_launch", 5)
	if err != nil {
		return l, err
	}
	teams := int(c[0]) // of a block, of 128 threads each
	l.fast, l.threads, l.unit, l.slot = true, 128*teams, int(c[1]), int(c[2])
	l.blocks, l.rest = d.info.SMs, int(c[4])
	l.teams, l.shared = l.blocks*teams, 4*teams*max(int(c[3]), 4*group*l.slot)
	return l, nil
}

// rotaryShape is how many positions and pairs of channels the table of rotary has:
// those of the cache, and of the padding of prompts.
func (p decodePlan) rotaryShape() (positions, pairs int) {
	return roundTo(p.capacity, lanes), p.cfg.RotaryDims() / 2
}

// fillTable computes the cosines and sines of rotary.
func (d *decoder) fillTable() error {
	positions, pairs := d.plan.rotaryShape()
	if pairs == 0 {
		return nil
	}
	return d.launch(d.rotaryVariant(), "rotary_table", gpu.Grid1(positions*pairs, 256), d.mem.table, int32(positions), int32(pairs), float32(d.plan.cfg.RotaryBase))
}

// launchEarly puts a kernel into the stream that may begin before the one ahead has
// ended; see decode.cuh.
func (d *decoder) launchEarly(v variant, name string, g gpu.Grid, args ...any) error {
	if d.info.Major < 9 {
		return d.launch(v, name, g, args...)
	}
	k, err := d.kernels.kernel(v, name)
	if err != nil {
		return err
	}
	return k.LaunchEarly(d.stream, g, args...)
}

// prepare compiles the kernels and tunes the products that a step needs, which takes
// memory of its own.
func (d *decoder) prepare() error {
	var err error
	if d.whole, err = d.wholeLaunch(); err != nil {
		return err
	}
	list := []variant{d.stepVariant(), d.cacheVariant(), d.sampleFile(), d.linearFile()}
	if d.many() {
		list = append(list, d.manyFile())
	}
	if err := d.kernels.load(list...); err != nil {
		return err
	}
	for _, m := range d.products(d.plan.o.Rows) {
		if _, err := d.product(m); err != nil {
			return err
		}
	}
	return nil
}

// products lists those of a step in bf16, by cuBLASLt.
func (d *decoder) products(rows int) []gpu.Product {
	if d.elem == gpu.Float32 {
		return nil
	}
	var list []gpu.Product
	for _, l := range d.weights.layers {
		if d.whole != nil {
			break // these are not products of their own
		}
		for _, o := range d.layerProducts(l, batch{tokens: rows}) {
			list = append(list, o.describe(d.elem, rows))
		}
	}
	for first := 0; first < rows; first += d.plan.head {
		list = append(list, d.headProduct().describe(d.elem, min(d.plan.head, rows-first)))
	}
	return list
}
