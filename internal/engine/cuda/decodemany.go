//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

// tileShape is how a product of decode_many.cu is tiled: rows and columns of a tile,
// and the shared memory of its block.
type tileShape struct{ rows, columns, shared int }

// tiles is the number of tiles of a result.
func (t tileShape) tiles(rows, columns int) int {
	return ((rows + t.rows - 1) / t.rows) * ((columns + t.columns - 1) / t.columns)
}

// input describes what is multiplied.
func (t tileShape) input(p gpu.Ptr, rows, columns, stride int) (*gpu.TensorMap, error) {
	return gpu.NewTensorMap(p, rows, columns, stride, t.rows)
}

// weight describes the weight of a product.
func (t tileShape) weight(p gpu.Ptr, rows, columns int) (*gpu.TensorMap, error) {
	return gpu.NewTensorMap(p, rows, columns, columns, t.columns)
}

// manyTiles are the shapes of decode_many.cu.
type manyTiles struct {
	split, out, head tileShape
	threads          int // of a block
}

// grid is that of a product of so many blocks.
func (m manyTiles) grid(t tileShape, blocks int) gpu.Grid {
	return gpu.Grid{Blocks: [3]int{blocks}, Threads: [3]int{m.threads}, Shared: t.shared}
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
	c, err := d.kernels.constants(d.manyFile(), "decode_many_launch", 10)
	if err != nil {
		return t, err
	}
	for i, s := range []*tileShape{&t.split, &t.out, &t.head} {
		*s = tileShape{int(c[3*i]), int(c[3*i+1]), int(c[3*i+2])}
	}
	t.threads = int(c[9])
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
	in, err := t.input(b.normed, b.tokens, l.split.cols, l.split.cols)
	if err != nil {
		return false, err
	}
	weight, err := t.weight(l.split.weight, l.split.rows, l.split.cols)
	if err != nil {
		return false, err
	}
	_, pairs := p.rotaryShape()
	keys, values, _, _ := d.cached(l.owner)
	err = d.launchEarly(d.manyFile(), "decode_many_split", shapes.grid(t, blocks),
		in, weight, l.split.bias, b.y, int32(layerStride(l)), int32(b.tokens), int32(p.cfg.HiddenSize), int32(l.kv), int32(l.query), int32(l.mlp),
		int32(p.cfg.HeadSize()), d.mem.table, int32(pairs), d.mem.position, keys, values, int32(p.capacity), flag(d.unrotated(l.owner)))
	if err == nil && p.bits == 8 && l.kv > 0 {
		err = d.splitHeads(l, b, 0, 0)
	}
	return true, err
}

// leastParts is into how many parts the inner dimension of our product to the residual
// is divided at least; with fewer cuBLASLt's product is faster.
const leastParts = 3

// manyOut is addNormalised by a product whose inner dimension is divided among blocks,
// and a norm that adds their parts up. Two thirds of the multiprocessors are no
// slower than all of them (docs/decode.md).
func (d *decoder) manyOut(l deviceLayer, b batch, after affine) (done bool, err error) {
	shapes, err := d.manyTiles()
	if err != nil {
		return false, err
	}
	t, hidden := shapes.out, d.plan.cfg.HiddenSize
	tiles := t.tiles(b.tokens, hidden)
	parts := min(d.info.SMs*2/3/tiles, l.out.cols/64)
	if parts < leastParts || hidden > 8192 {
		return false, nil
	}
	in, err := t.input(d.queries(l, b.y), b.tokens, l.out.cols, layerStride(l))
	if err != nil {
		return false, err
	}
	weight, err := t.weight(l.out.weight, l.out.rows, l.out.cols)
	if err != nil {
		return false, err
	}
	return true, inOrder(
		func() error {
			return d.launchEarly(d.manyFile(), "decode_many_out", shapes.grid(t, parts*tiles),
				in, weight, d.mem.workspace, int32(b.tokens), int32(hidden), int32(l.out.cols), int32(parts))
		},
		func() error {
			return d.launchEarly(d.manyFile(), "decode_add_norm", gpu.Grid{Blocks: [3]int{b.tokens}, Threads: [3]int{min(1024, (hidden/4+31)/32*32)}},
				b.x, l.out.bias, d.mem.workspace, int32(parts), after.gain, after.shift, b.normed, int32(hidden), float32(d.plan.cfg.LayerNormEps))
		},
	)
}

// manyChoice chooses the most likely token of every row of normed without keeping logits.
func (d *decoder) manyChoice() error {
	p, cfg := d.plan, d.plan.cfg
	shapes, err := d.manyTiles()
	if err != nil {
		return err
	}
	t := shapes.head
	parts := t.tiles(1, cfg.VocabSize)
	weight, err := t.weight(d.weights.head, cfg.VocabSize, cfg.HiddenSize)
	if err != nil {
		return err
	}
	// The parts' choices lie where logits would.
	room := p.head * cfg.VocabSize / (2 * parts)
	return chunks(p.o.Rows, room, func(first, rows int) error {
		in, err := t.input(d.offset(d.mem.normed, first*cfg.HiddenSize), rows, cfg.HiddenSize, cfg.HiddenSize)
		if err != nil {
			return err
		}
		return inOrder(
			func() error {
				return d.launchEarly(d.manyFile(), "decode_many_best", shapes.grid(t, min(t.tiles(rows, cfg.VocabSize), d.info.SMs)),
					in, weight, d.mem.logits, int32(rows), int32(cfg.VocabSize), int32(cfg.HiddenSize))
			},
			func() error {
				return d.launchEarly(d.manyFile(), "decode_choose", gpu.Grid{Blocks: [3]int{(rows + 3) / 4}, Threads: [3]int{128}},
					d.mem.logits, int32(parts), d.mem.sampling+samplingStep, int32(first), int32(rows), int32(p.o.Rows), d.mem.tokens, d.ring.Ptr(), int32(ringSlots))
			},
		)
	})
}
