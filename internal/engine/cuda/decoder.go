//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"context"
	"errors"
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// decoder extends sequences with a cache on the device. It does not run the graph's
// operations but a program of its own, in which a layer is two products and few
// kernels beside attention (decodepack.go); the CPU's decoder, which runs the graph,
// is its reference.
type decoder struct {
	*device
	plan    decodePlan
	vocab   int
	weights *decodeWeights

	arenas  []*gpu.Arena // of everything that depends on the capacity
	mem     decodeMemory
	ring    *gpu.Pinned[int32] // the latest steps' tokens
	events  [ringSlots]gpu.Event
	step    *gpu.Graph   // chooses the most likely tokens
	draw    *gpu.Graph   // draws them; nil where step does both
	whole   *wholeLaunch // nil where a step is many kernels
	lengths []int        // tokens of each row in the cache
}

// decodeMemory are the addresses of what a decoder keeps for its capacity.
type decodeMemory struct {
	cache                  gpu.Ptr
	x                      gpu.Ptr // residual [rows, hidden] in float32
	normed                 gpu.Ptr // [rows, hidden]
	y                      gpu.Ptr // fused projection [rows, stride]
	inner                  gpu.Ptr // of key/value MLPs, or of an MLP after attention
	logits                 gpu.Ptr // [head rows, vocab] in float32
	tokens, seen, position gpu.Ptr // [rows] int32
	places                 gpu.Ptr // see decode_begin
	partial, arrived       gpu.Ptr // see decode_attention
	sampling               gpu.Ptr
	table                  gpu.Ptr // of rotary: cosine and sine [positions, pairs]
	layers, meetings       gpu.Ptr // see decode_step
	workspace              gpu.Ptr
}

// Decoder implements engine.Engine.
func (e *Engine) Decoder(cfg model.Config, w engine.Weights, o engine.DecodeOptions) (engine.Decoder, error) {
	if err := e.checkModel(cfg); err != nil {
		return nil, err
	}
	padded := pad(cfg)
	if _, err := planDecoder(padded, o, e.dev.elem.Size()); err != nil {
		return nil, err
	}
	d := &decoder{device: e.dev, vocab: cfg.VocabSize}
	err := d.gpu.Do(func() (err error) {
		d.weights, err = uploadWeights(d.device, cfg, padded, w)
		return err
	})
	if err == nil {
		err = d.Resize(o)
	}
	if err != nil {
		return nil, errors.Join(outOfMemory(err), d.Close())
	}
	return d, nil
}

// outOfMemory makes the device's error the engine's.
func outOfMemory(err error) error {
	if errors.Is(err, gpu.ErrOutOfMemory) {
		return fmt.Errorf("%w: %w", engine.ErrOutOfMemory, err)
	}
	return err
}

// Resize implements engine.Decoder.
func (d *decoder) Resize(o engine.DecodeOptions) error {
	plan, err := planDecoder(d.weights.cfg, o, d.elem.Size())
	if err != nil {
		return err
	}
	err = d.gpu.Do(func() error {
		if err := d.release(); err != nil {
			return err
		}
		d.plan = plan
		return inOrder(d.prepare, d.allocate, d.fillTable, d.fillLayers, d.clear, d.warmUp, d.capture)
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("decoding %d rows of up to %d tokens: %w", o.Rows, o.MaxSize, outOfMemory(err))
	return errors.Join(err, d.gpu.Do(d.release))
}

// allocate takes the memory of the plan: the cache, and all else.
func (d *decoder) allocate() error {
	p := d.plan
	rows, hidden := int64(p.o.Rows), int64(p.cfg.HiddenSize)
	items := rows * int64(p.cfg.KVHeads)
	attention, err := d.attentionLaunch()
	if err != nil {
		return err
	}
	var size int64
	var set []func(base gpu.Ptr)
	take := func(to *gpu.Ptr, n int64) {
		at := size
		set = append(set, func(base gpu.Ptr) { *to = base + gpu.Ptr(at) })
		size += roundUp(n)
	}
	m := &d.mem
	take(&m.x, rows*hidden*4)
	take(&m.normed, rows*hidden*p.elem)
	take(&m.y, rows*int64(p.stride)*p.elem)
	take(&m.inner, rows*d.innerColumns()*p.elem)
	take(&m.logits, int64(p.head)*int64(p.cfg.VocabSize)*4)
	for _, to := range []*gpu.Ptr{&m.tokens, &m.seen, &m.position} {
		take(to, rows*4)
	}
	take(&m.places, int64(attention.teams+1)*8)
	take(&m.partial, attention.partialBytes(p.cfg))
	take(&m.arrived, items*4)
	take(&m.sampling, samplingSize)
	positions, pairs := p.rotaryShape()
	take(&m.table, int64(positions)*int64(pairs)*8)
	take(&m.layers, int64(p.cfg.Layers)*wholeLayerSize)
	take(&m.meetings, meetingsSize)
	take(&m.workspace, gpu.WorkspaceSize)
	if limit := p.o.MemoryLimit; limit > 0 && d.weights.arena.Size()+p.cacheBytes()+size > limit {
		return fmt.Errorf("%w: %d bytes of the %d allowed", gpu.ErrOutOfMemory, d.weights.arena.Size()+p.cacheBytes()+size, limit)
	}
	for _, n := range []int64{p.cacheBytes(), size} {
		a, err := gpu.NewArena(n)
		if err != nil {
			return err
		}
		d.arenas = append(d.arenas, a)
	}
	m.cache = d.arenas[0].At(0, p.cacheBytes())
	for _, f := range set {
		f(d.arenas[1].At(0, size))
	}
	for i := range d.events {
		if d.events[i], err = gpu.NewEvent(false); err != nil {
			return err
		}
	}
	d.ring, err = gpu.NewPinned[int32](ringSlots * p.o.Rows)
	return err
}

// innerColumns is the width of what only some models have: the inner layers of key
// and value MLPs, or of an MLP that follows attention.
func (d *decoder) innerColumns() int64 {
	n := 2 * d.plan.cfg.KVIntermediateSize
	if !d.plan.cfg.ParallelResidual {
		n = max(n, d.plan.cfg.IntermediateSize)
	}
	return int64(max(n, lanes))
}

// clear empties the cache: all lengths are 0, and no scale is undefined.
func (d *decoder) clear() error {
	p := d.plan
	d.lengths = make([]int, p.o.Rows)
	scales := p.cacheBytes() - p.scaleBytes()
	return inOrder(
		func() error { return d.stream.Zero(d.mem.cache+gpu.Ptr(scales), p.scaleBytes()) },
		func() error { return d.stream.Zero(d.mem.arrived, int64(p.o.Rows)*int64(p.cfg.KVHeads)*4) },
		func() error { return d.stream.Zero(d.mem.seen, int64(p.o.Rows)*4) },
		func() error { return d.stream.Zero(d.mem.tokens, int64(p.o.Rows)*4) },
		func() error { return d.stream.Zero(d.mem.sampling, samplingSize) },
		func() error { return d.stream.Zero(d.mem.meetings, meetingsSize) },
	)
}

// warmUp runs the steps: the driver loads kernels when they are first launched, which
// it does not do while a graph is recorded.
func (d *decoder) warmUp() error {
	return inOrder(d.greedy, d.clear, d.drawn, d.clear, d.stream.Synchronize)
}

func (d *decoder) capture() (err error) {
	if d.step, err = gpu.Capture(d.stream, d.greedy); err == nil && (d.whole != nil || d.many()) {
		d.draw, err = gpu.Capture(d.stream, d.drawn)
	}
	return err
}

// greedy is a step of the most likely tokens: it reads a token a row and chooses the
// next.
func (d *decoder) greedy() error {
	switch {
	case d.whole != nil:
		return d.runWhole(d.ring.Ptr())
	case d.many():
		return inOrder(d.forward, d.manyChoice)
	}
	return d.drawn()
}

// drawn is a step that chooses tokens as the sampling says.
func (d *decoder) drawn() error { return d.advance(d.sample) }

// release gives back what depends on the capacity.
func (d *decoder) release() error {
	errs := []error{d.stream.Synchronize()}
	for _, g := range []*gpu.Graph{d.step, d.draw} {
		if g != nil {
			errs = append(errs, g.Destroy())
		}
	}
	for _, a := range d.arenas {
		errs = append(errs, a.Free())
	}
	if d.ring != nil {
		errs = append(errs, d.ring.Free())
		for i := range d.events {
			errs = append(errs, d.events[i].Destroy())
		}
	}
	d.step, d.draw, d.arenas, d.ring, d.lengths, d.plan, d.whole = nil, nil, nil, nil, nil, decodePlan{}, nil
	return errors.Join(errs...)
}

// CacheBytes implements engine.Decoder.
func (d *decoder) CacheBytes() int64 {
	if d.lengths == nil {
		return 0
	}
	return d.plan.cacheBytes()
}

// Memory implements engine.Decoder.
func (d *decoder) Memory() engine.Memory {
	m := engine.Memory{Weights: d.weights.arena.Size(), Cache: d.CacheBytes()}
	if d.lengths != nil {
		m.Workspace = gpu.WorkspaceSize
		m.Activations = d.arenas[1].Size() - m.Workspace
	}
	return m
}

// Close implements engine.Decoder.
func (d *decoder) Close() error {
	return d.gpu.Do(func() error {
		err := d.release()
		if d.weights != nil {
			err = errors.Join(err, d.weights.arena.Free())
			d.weights = nil
		}
		return err
	})
}

// room reports rows that cannot take steps tokens more.
func (d *decoder) room(steps int) error {
	if d.lengths == nil {
		return fmt.Errorf("the decoder has no cache: the last Resize failed")
	}
	for r, n := range d.lengths {
		if n == 0 || n+steps > d.plan.o.MaxSize {
			return fmt.Errorf("next: row %d holds %d of at most %d tokens, and is to take %d", r, n, d.plan.o.MaxSize, steps)
		}
	}
	return nil
}

// put makes tokens the next step's input.
func (d *decoder) put(tokens []int32) error {
	if len(tokens) != d.plan.o.Rows {
		return fmt.Errorf("next: expected %d tokens, found %d", d.plan.o.Rows, len(tokens))
	}
	if err := engine.CheckTokens(tokens, d.vocab); err != nil {
		return err
	}
	return gpu.Upload(d.mem.tokens, tokens)
}

// Next implements engine.Decoder.
func (d *decoder) Next(_ context.Context, tokens []int32) ([]float32, error) {
	if err := d.room(1); err != nil {
		return nil, err
	}
	var logits []float32
	err := d.gpu.Do(func() error {
		return inOrder(func() error { return d.put(tokens) }, func() (err error) {
			logits, err = d.readLogits(d.advance)
			d.grow(1)
			return err
		})
	})
	return logits, err
}

func (d *decoder) grow(steps int) {
	for r := range d.lengths {
		d.lengths[r] += steps
	}
}

// readLogits brings the logits that produce hands over to the host.
func (d *decoder) readLogits(produce func(each func(first, rows int) error) error) ([]float32, error) {
	v := d.plan.cfg.VocabSize
	out := make([]float32, d.plan.o.Rows*v)
	return out, produce(func(first, rows int) error {
		if err := d.stream.Synchronize(); err != nil {
			return err
		}
		return gpu.Download(out[first*v:(first+rows)*v], d.mem.logits)
	})
}

// Fill implements engine.Decoder: elements are uniform from -1 to 1.
func (d *decoder) Fill(_ context.Context, length int, seed uint64) error {
	if d.lengths == nil || length < 1 || length > d.plan.o.MaxSize {
		return fmt.Errorf("fill: expected 1 to %d tokens a row, found %d", d.plan.o.MaxSize, length)
	}
	p := d.plan
	err := d.gpu.Do(func() error {
		v := d.stepVariant()
		return inOrder(
			func() error {
				return d.launch(v, "decode_fill", gpu.Grid{Blocks: [3]int{16 * d.info.SMs}, Threads: [3]int{256}}, d.mem.cache, p.elements(), seed)
			},
			func() error {
				const inverse127 = 0x3c01 // 1/127 in bf16
				return d.stream.Fill(d.mem.cache+gpu.Ptr(p.cacheBytes()-p.scaleBytes()), inverse127<<16|inverse127, p.scaleBytes())
			},
			func() error {
				return d.launch(v, "decode_lengths", gpu.Grid1(p.o.Rows, 256), d.mem.seen, int32(p.o.Rows), int32(length))
			},
			d.stream.Synchronize,
		)
	})
	for r := range d.lengths {
		d.lengths[r] = length
	}
	return err
}
