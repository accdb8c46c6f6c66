//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

// tileShape is how a product of decode_many.cu is tiled.
type tileShape struct{ rows, columns, shared int }

// tiles is the number of tiles of a result.
func (t tileShape) tiles(rows, columns int) int {
	return ((rows + t.rows - 1) / t.rows) * ((columns + t.columns - 1) / t.columns)
}

// manyTiles are the shapes of decode_many.cu.
type manyTiles struct {
	split, head tileShape
	threads     int // of a block
}

// manyFile has the products of many rows.
func (d *decoder) manyFile() variant {
	return d.variant("decode_many.cu", fmt.Sprintf("CACHE=%d", d.plan.bits))
}

// many says whether a step takes the products for many rows, which need Hopper's
// tensor cores: those of bf16 weights with a parallel residual.
func (d *decoder) many() bool {
	cfg := d.plan.cfg
	return d.info.Major == 9 && d.elem == gpu.BFloat16 && d.whole == nil && cfg.ParallelResidual && cfg.KVIntermediateSize == 0
}

func (d *decoder) manyTiles() (t manyTiles, err error) {
	c, err := d.kernels.constants(d.manyFile(), "decode_many_launch", 7)
	if err != nil {
		return t, err
	}
	for i, s := range []*tileShape{&t.split, &t.head} {
		*s = tileShape{int(c[3*i]), int(c[3*i+1]), int(c[3*i+2])}
	}
	t.threads = int(c[6])
	return t, nil
}

// manySplit is splitProduct and splitHeads in one kernel. It leaves more tiles than
// there are multiprocessors to cuBLASLt's product, which is faster then.
func (d *decoder) manySplit(l deviceLayer, b batch) (done bool, err error) {
	p := d.plan
	shapes, err := d.manyTiles()
	if err != nil {
		return false, err
	}
	t := shapes.split
	blocks := t.tiles(b.tokens, l.split.rows)
	if blocks > d.info.SMs {
		return false, nil
	}
	in, err := gpu.NewTensorMap(b.normed, b.tokens, l.split.cols, l.split.cols, t.rows)
	if err != nil {
		return false, err
	}
	weight, err := gpu.NewTensorMap(l.split.weight, l.split.rows, l.split.cols, l.split.cols, t.columns)
	if err != nil {
		return false, err
	}
	_, pairs := p.rotaryShape()
	keys, values, _, _ := d.cached(l.owner)
	err = d.launchEarly(d.manyFile(), "decode_many_split", gpu.Grid{Blocks: [3]int{blocks}, Threads: [3]int{shapes.threads}, Shared: t.shared},
		in, weight, l.split.bias, b.y, int32(layerStride(l)), int32(b.tokens), int32(p.cfg.HiddenSize), int32(l.kv), int32(l.query), int32(l.mlp),
		int32(p.cfg.HeadSize()), d.mem.table, int32(pairs), d.mem.position, keys, values, int32(p.capacity), flag(d.unrotated(l.owner)))
	if err == nil && p.bits == 8 && l.kv > 0 {
		err = d.splitHeads(l, b, 0, 0)
	}
	return true, err
}

// manyChoice chooses the most likely token of every row without keeping logits.
func (d *decoder) manyChoice() error {
	p, cfg := d.plan, d.plan.cfg
	shapes, err := d.manyTiles()
	if err != nil {
		return err
	}
	t := shapes.head
	parts := t.tiles(1, cfg.VocabSize)
	if err := d.norm(d.mem.x, d.weights.gain, d.weights.shift, d.mem.normed, p.o.Rows); err != nil {
		return err
	}
	weight, err := gpu.NewTensorMap(d.weights.head, cfg.VocabSize, cfg.HiddenSize, cfg.HiddenSize, t.columns)
	if err != nil {
		return err
	}
	// The parts' choices lie where logits would.
	room := p.head * cfg.VocabSize / (2 * parts)
	return chunks(p.o.Rows, room, func(first, rows int) error {
		in, err := gpu.NewTensorMap(d.offset(d.mem.normed, first*cfg.HiddenSize), rows, cfg.HiddenSize, cfg.HiddenSize, t.rows)
		if err != nil {
			return err
		}
		return inOrder(
			func() error {
				return d.launchEarly(d.manyFile(), "decode_many_best",
					gpu.Grid{Blocks: [3]int{min(t.tiles(rows, cfg.VocabSize), d.info.SMs)}, Threads: [3]int{shapes.threads}, Shared: t.shared},
					in, weight, d.mem.logits, int32(rows), int32(cfg.VocabSize), int32(cfg.HiddenSize))
			},
			func() error {
				return d.launchEarly(d.manyFile(), "decode_choose", gpu.Grid{Blocks: [3]int{(rows + 3) / 4}, Threads: [3]int{128}},
					d.mem.logits, int32(parts), d.mem.sampling+samplingStep, int32(first), int32(rows), int32(p.o.Rows), d.mem.tokens, d.ring.Ptr(), int32(ringSlots))
			},
		)
	})
}
