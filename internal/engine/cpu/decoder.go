package cpu

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"gorgonia.org/gorgonia"
	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/engine/plan"
	"mlkv/internal/graph"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// decoder runs the model's graph over one new token a row. Where the graph
// attends and rotates, it reads the cache and the rows' positions instead.
type decoder struct {
	cfg     model.Config
	o       engine.DecodeOptions
	params  map[string][]float32
	next    *program
	memory  region // arena and caches
	arena   []float32
	keys    map[int]*op.Cache // by owner layer
	values  map[int]*op.Cache
	lengths []int // tokens of each row in the cache
}

// Decoder implements engine.Engine.
func (e *Engine) Decoder(cfg model.Config, w engine.Weights, o engine.DecodeOptions) (engine.Decoder, error) {
	params, err := load(cfg, w, false)
	if err != nil {
		return nil, err
	}
	d := &decoder{cfg: cfg, params: params}
	if err := d.Resize(o); err != nil {
		return nil, err
	}
	return d, nil
}

// Resize implements engine.Decoder.
func (d *decoder) Resize(o engine.DecodeOptions) error {
	if o.Rows < 1 || o.MaxSize < 1 {
		return fmt.Errorf("decoding %d rows of up to %d tokens: both must be positive", o.Rows, o.MaxSize)
	}
	if o.CacheBits != 0 && o.CacheBits != 32 {
		return fmt.Errorf("cache of %d bits an element: the CPU engine has 32", o.CacheBits)
	}
	if err := d.Close(); err != nil {
		return err
	}
	next, err := d.compile(o.Rows, 1, o.Rows)
	if err != nil {
		return err
	}
	if d.memory, err = newRegion(int64(next.plan.Elements+o.Rows*o.MaxSize*d.cfg.KVElements()), bytes(d.params), o.MemoryLimit); err != nil {
		return fmt.Errorf("decoding %d rows of up to %d tokens: %w", o.Rows, o.MaxSize, err)
	}
	d.o, d.next, d.lengths = o, next, make([]int, o.Rows)
	d.arena = d.memory.take(next.plan.Elements)
	d.keys, d.values = map[int]*op.Cache{}, map[int]*op.Cache{}
	for _, c := range next.Cache {
		if c.Key != nil {
			d.keys[c.Owner] = d.newCache()
		}
		if c.Value != nil {
			d.values[c.Owner] = d.newCache()
		}
	}
	return nil
}

func (d *decoder) newCache() *op.Cache {
	return &op.Cache{Rows: d.o.Rows, KVHeads: d.cfg.KVHeads, Capacity: d.o.MaxSize, HeadSize: d.cfg.HeadSize(), Data: d.memory.take(d.o.Rows * d.o.MaxSize * d.cfg.KVSize())}
}

// compile is the program of the logits at the picked positions, with the keys
// and values that go into the cache kept to its end.
func (d *decoder) compile(rows, length, picked int) (*program, error) {
	g, err := graph.Build(d.cfg, graph.Options{Rows: rows, Length: length, Output: graph.Logits, Picked: picked})
	if err != nil {
		return nil, err
	}
	results := nodes(g.Logits)
	for _, c := range g.Cache {
		results = append(results, nodes(c.Key, c.Value)...)
	}
	return compile(g, d.params, results)
}

// Prefill implements engine.Decoder. It reads prompt after prompt with the same
// attention as training does.
func (d *decoder) Prefill(ctx context.Context, prompts [][]int32) ([]float32, error) {
	if len(prompts) != d.o.Rows {
		return nil, fmt.Errorf("prefill: expected %d prompts, found %d", d.o.Rows, len(prompts))
	}
	logits := make([]float32, 0, d.o.Rows*d.cfg.VocabSize)
	for r, prompt := range prompts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(prompt) < 1 || len(prompt) > d.o.MaxSize {
			return nil, fmt.Errorf("prompt %d: expected 1 to %d tokens, found %d", r, d.o.MaxSize, len(prompt))
		}
		if err := engine.CheckTokens(prompt, d.cfg.VocabSize); err != nil {
			return nil, fmt.Errorf("prompt %d: %w", r, err)
		}
		p, err := d.compile(1, len(prompt), 1)
		if err != nil {
			return nil, err
		}
		arena := make([]float32, p.plan.Elements)
		p.bind(p.Tokens, prompt)
		p.bind(p.Index, []int32{int32(len(prompt) - 1)})
		p.run(arena, nil)
		for _, c := range p.Cache {
			if c.Key != nil {
				d.keys[c.Owner].Put(r, 0, p.value(arena, c.Key))
			}
			if c.Value != nil {
				d.values[c.Owner].Put(r, 0, p.value(arena, c.Value))
			}
		}
		d.lengths[r] = len(prompt)
		logits = append(logits, p.value(arena, p.Logits)...)
	}
	return logits, nil
}

// Next implements engine.Decoder.
func (d *decoder) Next(_ context.Context, tokens []int32) ([]float32, error) {
	if len(tokens) != d.o.Rows {
		return nil, fmt.Errorf("next: expected %d tokens, found %d", d.o.Rows, len(tokens))
	}
	if err := engine.CheckTokens(tokens, d.cfg.VocabSize); err != nil {
		return nil, err
	}
	for r, n := range d.lengths {
		if n == 0 || n == d.o.MaxSize {
			return nil, fmt.Errorf("next: row %d holds %d of at most %d tokens", r, n, d.o.MaxSize)
		}
	}
	p := d.next
	p.bind(p.Tokens, tokens)
	p.bind(p.Index, sequence(d.o.Rows))
	d.run(p)
	for r := range d.lengths {
		d.lengths[r]++
	}
	return p.value(d.arena, p.Logits), nil
}

// run executes the program with the operators that depend on what came before
// replaced by those that read positions and cache.
func (d *decoder) run(p *program) {
	seen := make([]int, len(d.lengths)) // positions that the new token attends to
	for r, n := range d.lengths {
		seen[r] = n + 1
	}
	stored := map[*gorgonia.Node]bool{}
	p.run(d.arena, func(s plan.Step, out op.Array, in []op.Array) bool {
		switch o := s.Op.(type) {
		case op.Rotary:
			copy(out.F32, in[0].F32)
			o.TurnAt(out.F32, d.lengths)
		case op.Attention:
			var turn *op.Rotary
			for _, c := range p.Cache {
				// The owner's own layer comes before its borrowers.
				if c.Owner == o.KeyOwner && d.store(p, d.keys[c.Owner], c.Key, stored) && c.Unrotated {
					r := graph.Rotary(d.cfg, 1)
					turn = &r
				}
				if c.Owner == o.ValueOwner {
					d.store(p, d.values[c.Owner], c.Value, stored)
				}
			}
			o.AttendCached(out.F32, in[0].F32, d.keys[o.KeyOwner], d.values[o.ValueOwner], seen, turn)
		default:
			return false
		}
		return true
	})
}

// store puts what a node computed of the new tokens, their keys or values, into its
// cache, once a step; it reports whether it had to.
func (d *decoder) store(p *program, cache *op.Cache, n *gorgonia.Node, stored map[*gorgonia.Node]bool) bool {
	if stored[n] {
		return false
	}
	stored[n] = true
	x, w := p.value(d.arena, n), d.cfg.KVSize()
	for r, at := range d.lengths {
		cache.Put(r, at, x[r*w:(r+1)*w])
	}
	return true
}

// Extend implements engine.Decoder.
func (d *decoder) Extend(ctx context.Context, tokens []int32, steps int) ([]int32, error) {
	chosen := make([]int32, d.o.Rows*steps)
	tokens = slices.Clone(tokens)
	for s := range steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		logits, err := d.Next(ctx, tokens)
		if err != nil {
			return nil, err
		}
		v := d.cfg.VocabSize
		blas.Parallel(d.o.Rows, func(r int) { tokens[r] = greatest(logits[r*v : (r+1)*v]) })
		for r, t := range tokens {
			chosen[r*steps+s] = t
		}
	}
	return chosen, nil
}

// greatest is the first index of the greatest element.
func greatest(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

// Fill implements engine.Decoder with entries of a uniform distribution from
// -1 to 1.
func (d *decoder) Fill(ctx context.Context, length int, seed uint64) error {
	if length < 1 || length > d.o.MaxSize {
		return fmt.Errorf("fill: expected 1 to %d tokens a row, found %d", d.o.MaxSize, length)
	}
	for _, c := range d.next.Cache {
		if err := ctx.Err(); err != nil {
			return err
		}
		caches := []*op.Cache{d.keys[c.Owner], d.values[c.Owner]}
		blas.Parallel(d.o.Rows, func(r int) {
			random := rand.New(rand.NewPCG(seed, uint64(c.Owner)<<32|uint64(r)))
			for g := range d.cfg.KVHeads {
				for _, c := range caches {
					if c == nil {
						continue
					}
					at := c.Head(r, g)
					for i := range length * c.HeadSize {
						c.Data[at+i] = 2*random.Float32() - 1
					}
				}
			}
		})
	}
	for r := range d.lengths {
		d.lengths[r] = length
	}
	return nil
}

// CacheBytes implements engine.Decoder.
func (d *decoder) CacheBytes() int64 {
	n := int64(0)
	for _, caches := range []map[int]*op.Cache{d.keys, d.values} {
		for _, c := range caches {
			n += int64(len(c.Data)) * 4
		}
	}
	return n
}

// Memory implements engine.Decoder.
func (d *decoder) Memory() engine.Memory {
	return engine.Memory{Weights: bytes(d.params), Cache: d.CacheBytes(), Activations: int64(len(d.arena)) * 4}
}

// Close implements engine.Decoder.
func (d *decoder) Close() error {
	d.arena, d.keys, d.values, d.next, d.lengths, d.o = nil, nil, nil, nil, nil, engine.DecodeOptions{}
	return d.memory.free()
}
