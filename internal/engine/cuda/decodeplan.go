package cuda

import (
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// decodePlan says what a decoder of some capacity holds and how it is divided.
type decodePlan struct {
	cfg      model.Config // padded
	o        engine.DecodeOptions
	elem     int64 // bytes of an activation
	bits     int   // of a cached element
	capacity int   // positions of a row in the cache
	owners   []int // layers, in the order of their places in the cache
	stride   int   // elements of a row of the widest fused projection
	head     int   // rows that are projected onto the vocabulary at a time
}

// headBytes bounds the logits that exist at a time.
const headBytes = 256 << 20

// planDecoder checks the options against the engine's types.
func planDecoder(cfg model.Config, o engine.DecodeOptions, elem int64) (decodePlan, error) {
	p := decodePlan{cfg: cfg, o: o, elem: elem, bits: o.CacheBits, capacity: o.MaxSize, owners: cfg.Owner.List()}
	if o.Rows < 1 || o.MaxSize < 1 {
		return p, fmt.Errorf("decoding %d rows of up to %d tokens: both must be positive", o.Rows, o.MaxSize)
	}
	if cfg.ValueOwner != nil {
		return p, fmt.Errorf("value_layer_map: the CUDA engine decodes keys and values of the same owners, found %s for keys and %s for values; take --device cpu", cfg.Owner, cfg.ValueOwner)
	}
	own := int(elem * 8)
	switch p.bits {
	case 0:
		p.bits = own
	case own:
	case 8:
		// Pairs of scales are read at once.
		p.capacity = roundTo(p.capacity, 2)
	default:
		return p, fmt.Errorf("cache of %d bits an element: the CUDA engine has %d and 8", o.CacheBits, own)
	}
	for l := range cfg.Layers {
		kv, query, mlp := decodeColumns(cfg, l)
		p.stride = max(p.stride, 2*kv+query+mlp)
	}
	p.head = max(1, min(o.Rows, int(headBytes/(4*int64(cfg.VocabSize)))))
	if p.head < o.Rows { // whole tiles of the products
		p.head = max(p.head/256*256, min(p.head, 256))
	}
	return p, nil
}

// positions is the number of positions that one owner's keys, or values, hold.
func (p decodePlan) positions() int64 {
	return int64(p.o.Rows) * int64(p.cfg.KVHeads) * int64(p.capacity)
}

// elements is the number of cached elements of all owners.
func (p decodePlan) elements() int64 {
	return 2 * int64(len(p.owners)) * p.positions() * int64(p.cfg.HeadSize())
}

// scaleBytes is the size of the scales of a cache of 8 bits: 16 bits for each
// position and head.
func (p decodePlan) scaleBytes() int64 {
	if p.bits != 8 {
		return 0
	}
	return 2 * int64(len(p.owners)) * p.positions() * 2
}

// cacheBytes is what the cache holds: for elements of 16 bits and more
// model.Config.KVBytes.
func (p decodePlan) cacheBytes() int64 { return p.elements()*int64(p.bits)/8 + p.scaleBytes() }

// place is where an owner's keys and values begin in the cache,
// [owner][2][row][kv_head][position][head_size], and their scales behind it, in
// bytes.
func (p decodePlan) place(owner int) (keys, values, keyScales, valueScales int64) {
	i := 0
	for p.owners[i] != owner {
		i++
	}
	each := p.positions() * int64(p.cfg.HeadSize()) * int64(p.bits) / 8
	scales := p.elements() * int64(p.bits) / 8
	return int64(2*i) * each, int64(2*i+1) * each, scales + int64(2*i)*p.positions()*2, scales + int64(2*i+1)*p.positions()*2
}

// prefillTokens bounds the tokens that are read at a time, the padding counted.
const prefillTokens = 8192

// promptChunk is a run of prompts that are read together, padded to one length.
type promptChunk struct{ first, rows, length int }

// prefillChunks divides prompts of the given lengths.
func prefillChunks(lengths []int) []promptChunk {
	var list []promptChunk
	for i, n := range lengths {
		n = roundTo(n, lanes)
		if len(list) > 0 {
			c := &list[len(list)-1]
			if longest := max(c.length, n); longest*(c.rows+1) <= prefillTokens {
				c.length, c.rows = longest, c.rows+1
				continue
			}
		}
		list = append(list, promptChunk{i, 1, n})
	}
	return list
}

// tokens is the number of rows that a chunk's products have: few different ones, so
// that few are tuned.
func (c promptChunk) tokens() int {
	n := 64
	for n < c.rows*c.length {
		n *= 2
	}
	return n
}
