//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"math"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// deviceMap is a linear map in device memory: the weight in the type of
// activations, the bias in float32.
type deviceMap struct {
	rows, cols   int
	weight, bias gpu.Ptr
}

// deviceLayer is a packedLayer in device memory.
type deviceLayer struct {
	owner                  int
	kv, query, mlp         int // columns of the fused projection
	split                  *deviceMap
	kvIn, keyOut, valueOut *deviceMap
	out, mlpIn, mlpOut     *deviceMap
}

// decodeWeights are a model's parameters as the decoder reads them.
type decodeWeights struct {
	cfg         model.Config // padded
	arena       *gpu.Arena
	embed, head gpu.Ptr
	last        affine // the final norm's, float32
	layers      []deviceLayer
}

// uploader puts arrays one after another into an arena.
type uploader struct {
	dev   *device
	arena *gpu.Arena
	at    int64
}

func (u *uploader) floats(v []float32) (gpu.Ptr, error) { return u.put(v, gpu.Float32) }

func (u *uploader) put(v []float32, t gpu.Type) (gpu.Ptr, error) {
	size := int64(len(v)) * t.Size()
	at := u.at
	u.at += roundUp(size)
	p := u.arena.At(at, size)
	if t == gpu.Float32 {
		return p, gpu.Upload(p, v)
	}
	rounded := make([]uint16, len(v))
	blas.Chunks(len(v), 1<<16, func(lo, hi int) {
		for i, x := range v[lo:hi] {
			rounded[lo+i] = toBF16(x)
		}
	})
	return p, gpu.Upload(p, rounded)
}

func (u *uploader) linear(p *packed) (*deviceMap, error) {
	if p == nil {
		return nil, nil
	}
	m := &deviceMap{rows: p.rows, cols: p.cols}
	var err error
	if m.weight, err = u.put(p.weight, u.dev.elem); err != nil {
		return nil, err
	}
	m.bias, err = u.floats(p.bias)
	return m, err
}

// uploadWeights packs a model's parameters, layer by layer.
func uploadWeights(dev *device, cfg, padded model.Config, w engine.Weights) (*decodeWeights, error) {
	out := &decodeWeights{cfg: padded}
	p := newPacker(cfg, padded, w)
	arena, err := gpu.NewArena(weightBytes(padded, dev.elem.Size()))
	if err != nil {
		return nil, err
	}
	out.arena = arena
	u := &uploader{dev: dev, arena: arena}
	if err := out.upload(u, p); err != nil {
		_ = arena.Free() // the first error tells
		return nil, err
	}
	return out, nil
}

func (d *decodeWeights) upload(u *uploader, p *packer) error {
	table := func(name string, t gpu.Type) (gpu.Ptr, error) {
		data, err := p.read(name)
		if err != nil {
			return 0, err
		}
		return u.put(data, t)
	}
	var err error
	for _, t := range []struct {
		to   *gpu.Ptr
		name string
		elem gpu.Type
	}{
		{&d.embed, model.EmbedIn, u.dev.elem},
		{&d.last.gain, model.FinalNormName + ".weight", gpu.Float32}, {&d.last.shift, model.FinalNormName + ".bias", gpu.Float32},
	} {
		if *t.to, err = table(t.name, t.elem); err != nil {
			return err
		}
	}
	d.head = d.embed
	if !d.cfg.TiedEmbeddings {
		if d.head, err = table(model.EmbedOut, u.dev.elem); err != nil {
			return err
		}
	}
	for l := range d.cfg.Layers {
		layer, err := d.layer(u, p, l)
		if err != nil {
			return err
		}
		d.layers = append(d.layers, layer)
	}
	return nil
}

func (d *decodeWeights) layer(u *uploader, p *packer, l int) (deviceLayer, error) {
	layer := deviceLayer{owner: d.cfg.Owner[l]}
	layer.kv, layer.query, layer.mlp = decodeColumns(d.cfg, l)
	parts, err := p.layer(l)
	if err != nil {
		return layer, err
	}
	for _, m := range []struct {
		to   **deviceMap
		from *packed
	}{
		{&layer.split, parts.split}, {&layer.kvIn, parts.kvIn}, {&layer.keyOut, parts.keyOut}, {&layer.valueOut, parts.valueOut},
		{&layer.out, parts.out}, {&layer.mlpIn, parts.mlpIn}, {&layer.mlpOut, parts.mlpOut},
	} {
		if *m.to, err = u.linear(m.from); err != nil {
			return layer, err
		}
	}
	return layer, nil
}

// toBF16 rounds to the nearest bf16 number.
func toBF16(x float32) uint16 {
	b := math.Float32bits(x)
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// weightBytes is what a padded model's parameters take on the device in the
// decoder's form: matrices in elements of the given size, the rest in float32, every
// array rounded up to its place.
func weightBytes(cfg model.Config, elem int64) int64 {
	n := int64(0)
	for _, p := range cfg.Params() {
		switch p.Kind {
		case model.Matrix, model.Embedding:
			n += roundUp(int64(p.Size()) * elem)
		default:
			n += roundUp(int64(p.Size()) * 4)
		}
	}
	return n
}
