//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"context"
	"errors"
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/op"
)

// prompts are the rows of a chunk that is read, and memory for it.
type prompts struct {
	promptChunk
	logs     gpu.Ptr         // of attention, [rows * heads, length] in float32
	borrowed map[int]gpu.Ptr // keys | values of owners whose layers others borrow from
}

// Prefill implements engine.Decoder.
func (d *decoder) Prefill(ctx context.Context, list [][]int32) ([]float32, error) {
	if err := d.checkPrompts(list); err != nil {
		return nil, err
	}
	var logits []float32
	err := d.gpu.Do(func() (err error) {
		if err := d.readPrompts(ctx, list); err != nil {
			return err
		}
		logits, err = d.readLogits(d.project)
		return err
	})
	return logits, err
}

func (d *decoder) checkPrompts(list [][]int32) error {
	if d.lengths == nil {
		return d.room(0)
	}
	if len(list) != d.plan.o.Rows {
		return fmt.Errorf("prefill: expected %d prompts, found %d", d.plan.o.Rows, len(list))
	}
	for r, p := range list {
		if len(p) < 1 || len(p) > d.plan.o.MaxSize {
			return fmt.Errorf("prompt %d: expected 1 to %d tokens, found %d", r, d.plan.o.MaxSize, len(p))
		}
		if err := engine.CheckTokens(p, d.vocab); err != nil {
			return fmt.Errorf("prompt %d: %w", r, err)
		}
	}
	return nil
}

// readPrompts fills the cache and leaves the result of every row's last token in normed.
func (d *decoder) readPrompts(ctx context.Context, list [][]int32) error {
	for r, p := range list {
		d.lengths[r] = len(p)
	}
	most := 0
	all := prefillChunks(d.lengths)
	for _, c := range all {
		most = max(most, c.tokens())
	}
	room, err := d.newPrefill(most)
	if err != nil {
		return fmt.Errorf("reading prompts, %d tokens at a time: %w", most, outOfMemory(err))
	}
	err = func() error {
		for _, c := range all {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := d.readChunk(room, c, list[c.first:c.first+c.rows]); err != nil {
				return err
			}
		}
		seen := make([]int32, len(list))
		for r, n := range d.lengths {
			seen[r] = int32(n)
		}
		return inOrder(func() error { return gpu.Upload(d.mem.seen, seen) }, d.stream.Synchronize)
	}()
	return errors.Join(err, d.stream.Synchronize(), room.arena.Free())
}

// prefill is memory for reading prompts; it is held as long only.
type prefill struct {
	arena         *gpu.Arena
	batch         batch
	tokens, index gpu.Ptr
	prompts       prompts
}

// newPrefill takes memory for chunks of n tokens.
func (d *decoder) newPrefill(n int) (*prefill, error) {
	p := d.plan
	f := &prefill{prompts: prompts{borrowed: map[int]gpu.Ptr{}}}
	size := int64(0)
	take := func(bytes int64) int64 {
		at := size
		size += roundUp(bytes)
		return at
	}
	tokens, hidden := int64(n), int64(p.cfg.HiddenSize)
	x, normed, y := take(tokens*hidden*4), take(tokens*hidden*p.elem), take(tokens*int64(p.stride)*p.elem)
	inner, logs := take(tokens*d.innerColumns()*p.elem), take(tokens*int64(p.cfg.Heads)*4)
	ids, index := take(tokens*4), take(tokens*4)
	borrowed := map[int]int64{}
	for _, o := range p.owners {
		if len(p.cfg.Owner.Members(o)) > 1 {
			borrowed[o] = take(tokens * 2 * int64(p.cfg.KVSize()) * p.elem)
		}
	}
	// The products that are not there yet are tuned in memory of their own.
	f.batch = batch{tokens: n}
	var err error
	if f.arena, err = gpu.NewArena(size); err != nil {
		return nil, err
	}
	at := func(o int64) gpu.Ptr { return f.arena.At(o, 0) }
	f.batch.x, f.batch.normed, f.batch.y, f.batch.inner = at(x), at(normed), at(y), at(inner)
	f.tokens, f.index, f.prompts.logs = at(ids), at(index), at(logs)
	for o, offset := range borrowed {
		f.prompts.borrowed[o] = at(offset)
	}
	f.batch.prompts = &f.prompts
	return f, nil
}

// readChunk takes one chunk of prompts through the layers.
func (d *decoder) readChunk(f *prefill, c promptChunk, list [][]int32) error {
	b := f.batch
	b.tokens = c.tokens()
	b.prompts.promptChunk = c
	hidden := d.plan.cfg.HiddenSize
	tokens, index := make([]int32, b.tokens), make([]int32, c.rows)
	for r, p := range list {
		copy(tokens[r*c.length:], p)
		index[r] = int32(r*c.length + len(p) - 1)
	}
	err := inOrder(
		d.stream.Synchronize, // the chunk before is done with the tokens
		func() error { return gpu.Upload(f.tokens, tokens) },
		func() error { return gpu.Upload(f.index, index) },
		func() error {
			return d.launch(d.stepVariant(), "decode_embed", eights(b.tokens*hidden), f.tokens, d.weights.embed, b.x, int32(b.tokens), int32(hidden))
		},
	)
	if err != nil {
		return err
	}
	if err := d.layers(b); err != nil {
		return err
	}
	return d.launch(d.stepVariant(), "decode_gather", gpu.Grid{Blocks: [3]int{c.rows}, Threads: [3]int{128}},
		b.normed, f.index, d.offset(d.mem.normed, c.first*hidden), int32(hidden))
}

// attendPrompts runs training's attention on a chunk, queries in their place. Keys
// and values are the layer's own, or what its owner left.
func (d *decoder) attendPrompts(l deviceLayer, b batch) error {
	cfg, c := d.plan.cfg, b.prompts.promptChunk
	o := op.Attention{Length: c.length, Heads: cfg.Heads, KVHeads: cfg.KVHeads, HeadSize: cfg.HeadSize(), KeyOwner: l.owner, ValueOwner: l.owner}
	q, stride := d.queries(l, b.y), layerStride(l)
	keys, values, kvStride := b.y, d.offset(b.y, l.kv), stride
	if l.kv == 0 {
		keys, kvStride = b.prompts.borrowed[l.owner], 2*cfg.KVSize()
		values = d.offset(keys, cfg.KVSize())
	}
	x := executor{device: d.device}
	grid, err := x.attentionGrid(o, 0, c.rows*cfg.Heads)
	if err != nil {
		return err
	}
	return d.launch(d.attentionVariant(o), "attention_forward", grid, q, keys, values, q, b.prompts.logs,
		int32(c.rows), int32(c.length), int32(cfg.Heads), int32(cfg.KVHeads), int32(stride), int32(kvStride), int32(kvStride), int32(stride), attentionScale(o))
}
