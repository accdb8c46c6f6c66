//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"math"

	"mlkv/internal/engine/cuda/gpu"
)

// wholeLaunch is how decode_step is launched, which takes a step of few rows as one
// kernel.
type wholeLaunch struct {
	file variant
	grid gpu.Grid
}

const (
	wholeRows      = 16 // at most
	meetingsSize   = 12
	wholeLayerSize = 56
)

// wholeLayer is struct Layer of decode_step.cu.
type wholeLayer struct {
	split, out, splitBias, outBias, keys, values gpu.Ptr
	kv, unrotated                                int32
}

// wholeLaunch is nil where a step takes many kernels: on devices before Hopper, for many
// rows, float32, a cache of 8 bits, a residual in sequence, key/value MLPs, heads that the
// attention by tensor cores does not have, and activations that find no room beside the
// weights on their way.
func (d *decoder) wholeLaunch() (*wholeLaunch, error) {
	p, cfg := d.plan, d.plan.cfg
	attention, err := d.attentionLaunch()
	if err != nil || !attention.fast || d.info.Major < 9 || p.o.Rows > wholeRows || p.bits != 16 || !cfg.ParallelResidual || cfg.KVIntermediateSize > 0 {
		return nil, err
	}
	turn := false
	for _, l := range d.weights.layers {
		turn = turn || d.turned(l)
	}
	// The kernel for up to 16 rows has less of the weights on their way.
	for _, wide := range []bool{false, true} {
		if p.o.Rows > 8 && !wide {
			continue
		}
		file := d.variant("decode_step.cu", fmt.Sprintf("HEAD_SIZE=%d HIDDEN=%d INNER=%d KV_HEADS=%d WIDE_ROWS=%d TURN_KEYS=%d",
			cfg.HeadSize(), cfg.HiddenSize, cfg.IntermediateSize, cfg.KVHeads, flag(wide), flag(turn)))
		c, err := d.kernels.constants(file, "decode_step_launch", 6)
		if err != nil {
			return nil, err
		}
		threads, shared := int(c[0]), d.wholeShared(c)
		if shared+wholeStatic <= d.info.SharedMemory {
			return &wholeLaunch{file, gpu.Grid{Blocks: [3]int{d.info.SMs}, Threads: [3]int{threads}, Shared: shared}}, nil
		}
	}
	return nil, nil
}

// wholeStatic is more than decode_step has of shared memory besides the dynamic one.
const wholeStatic = 512

// wholeShared is the dynamic shared memory of decode_step, by its decode_step_launch.
func (d *decoder) wholeShared(c []int32) int {
	threads, weights, cache, columns, slot, pitch := int(c[0]), int(c[1]), int(c[2]), int(c[3]), int(c[4]), int(c[5])
	cfg, rows, warps := d.plan.cfg, d.plan.o.Rows, threads/32
	_, pairs := d.plan.rotaryShape()
	group := cfg.Heads / cfg.KVHeads
	return weights + roundTo(8*rows*pairs+wholeLayerSize*cfg.Layers, 16) + max(cache+8*warps*rows*columns+2*rows*pitch, 4*warps*group*slot)
}

// turned says whether attention turns a layer's keys as it reads them.
func (d *decoder) turned(l deviceLayer) bool { return l.kv > 0 && d.unrotated(l.owner) }

// fillLayers tells decode_step where each layer's weights and cache are.
func (d *decoder) fillLayers() error {
	if d.whole == nil {
		return nil
	}
	list := make([]wholeLayer, len(d.weights.layers))
	for i, l := range d.weights.layers {
		keys, values, _, _ := d.cached(l.owner)
		list[i] = wholeLayer{l.split.weight, l.out.weight, l.split.bias, l.out.bias, keys, values, int32(l.kv), flag(d.turned(l))}
	}
	return gpu.UploadValues(d.mem.layers, list)
}

// runWhole takes a step's tokens in one kernel to logits, or to the most likely tokens
// and these to the ring.
func (d *decoder) runWhole(ring gpu.Ptr) error {
	p, cfg := d.plan, d.plan.cfg
	k, err := d.kernels.kernel(d.whole.file, "decode_step")
	if err != nil {
		return err
	}
	_, pairs := p.rotaryShape()
	scale := float32(math.Log2E / math.Sqrt(float64(cfg.HeadSize())))
	return k.LaunchTogether(d.stream, d.whole.grid, d.mem.layers, int32(cfg.Layers), d.mem.tokens, d.weights.embed, d.weights.last.gain, d.weights.last.shift, d.weights.head, int32(cfg.VocabSize),
		d.mem.x, d.mem.y, d.mem.logits, int32(p.o.Rows), float32(cfg.LayerNormEps), scale, d.mem.table, int32(pairs), int32(p.capacity), d.mem.seen,
		d.mem.sampling+samplingStep, d.mem.partial, d.mem.arrived, d.mem.meetings, ring, int32(ringSlots))
}
