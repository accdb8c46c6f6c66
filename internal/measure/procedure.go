package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// bench measures one model.
type bench struct {
	Options
	eng      engine.Engine
	cfg      model.Config
	dec      engine.Decoder // nil where not even the weights fit
	result   *ModelResult
	progress io.Writer
}

// measureModel takes every point of a model.
func measureModel(ctx context.Context, o Options, eng engine.Engine, m Model, s ui.Streams) (ModelResult, error) {
	debug.FreeOSMemory() // what the model before left would count as background
	before := eng.Info()
	o.Memory, o.CacheBits = memoryLimit(o.Memory, before), cacheBits(o.CacheBits, before)
	r := newModelResult(m, o.CacheBits)
	r.Background = before.Used
	w, checksum, closeFiles, err := m.open(o.Seed)
	if err != nil {
		return r, err
	}
	defer closeFiles()
	r.Checksum = checksum
	b := &bench{Options: o, eng: eng, cfg: m.Config, result: &r, progress: s.Err}
	b.dec, err = eng.Decoder(m.Config, w, b.capacity(1, 1))
	switch {
	case errors.Is(err, engine.ErrOutOfMemory):
	case err != nil:
		return r, err
	default:
		defer b.dec.Close()
		r.Weights, r.Memory = b.dec.Memory().Weights, eng.Info().Used-before.Used
	}
	for _, length := range o.Lengths {
		if err := b.batches(ctx, length); err != nil {
			return r, err
		}
	}
	for _, batch := range o.ContextBatches {
		if err := b.longestContext(ctx, batch); err != nil {
			return r, err
		}
	}
	return r, nil
}

// memoryLimit is what a model and its cache may take; 0 leaves it to the
// device. The CPU's memory is shared with everything else that runs.
func memoryLimit(given int64, info engine.Info) int64 {
	if given == 0 && info.Device == "cpu" {
		return info.Free / 2
	}
	return given
}

func cacheBits(given int, info engine.Info) int {
	if given == 0 {
		return info.CacheBits
	}
	return given
}

func (b *bench) capacity(rows, length int) engine.DecodeOptions {
	return engine.DecodeOptions{Rows: rows, MaxSize: length, CacheBits: b.CacheBits, MemoryLimit: b.Memory}
}

// batches measures the given batches of one length until memory is full, then
// the largest.
func (b *bench) batches(ctx context.Context, length int) error {
	fitted := 0
	for _, batch := range b.Batches {
		p := b.point(KindBatch, batch, length)
		if err := b.measure(ctx, &p); err != nil {
			return err
		}
		b.add(p)
		if p.OutOfMemory {
			break
		}
		fitted = batch
	}
	if !b.Largest {
		return nil
	}
	batch, err := b.search(ctx, fitted, func(n int) (rows, size int) { return n, length })
	if err != nil {
		return err
	}
	return b.measureLargest(ctx, b.point(KindLargest, batch, length), func(p *Point) *int { return &p.Batch })
}

// longestContext searches and measures the longest context of a batch.
func (b *bench) longestContext(ctx context.Context, batch int) error {
	length, err := b.search(ctx, 0, func(n int) (rows, size int) { return batch, n })
	if err != nil {
		return err
	}
	return b.measureLargest(ctx, b.point(KindContext, batch, length), func(p *Point) *int { return &p.Length })
}

// search finds the largest capacity that fits, 0 where none does: capacity
// gives a decoder's for a number, of which the known one fits.
func (b *bench) search(ctx context.Context, known int, capacity func(n int) (rows, size int)) (int, error) {
	fits := func(n int) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		return b.resize(capacity(n))
	}
	guess, err := b.guess(capacity)
	if err != nil {
		return 0, err
	}
	return greatest(known, guess, fits)
}

// resize reports whether a capacity fits.
func (b *bench) resize(rows, size int) (bool, error) {
	if b.dec == nil {
		return false, nil
	}
	err := b.dec.Resize(b.capacity(rows, size))
	if errors.Is(err, engine.ErrOutOfMemory) {
		return false, nil
	}
	return err == nil, err
}

// guess extrapolates to all memory that there is: first from two small
// capacities, then from two larger ones, since what a decoder holds may grow
// faster at first.
func (b *bench) guess(capacity func(n int) (rows, size int)) (int, error) {
	n := 64
	for _, least := range []int{0, 4096} {
		from, to := 16, 64
		if least > 0 {
			from, to = max(1, min(n/2, least)), min(n-n/4, 2*least)
		}
		if from >= to {
			break
		}
		var held [2]int64
		for i, n := range []int{from, to} {
			ok, err := b.resize(capacity(n))
			if !ok {
				return from, err
			}
			held[i] = b.dec.Memory().Total()
		}
		room := b.Memory
		if room == 0 {
			room = b.eng.Info().Free + held[1]
		}
		each := float64(max(1, held[1]-held[0])) / float64(to-from)
		n = max(1, to+int(float64(room-held[1])/each))
	}
	return n, nil
}

// measureLargest measures the largest capacity that fits. Where running it
// takes memory that holding it did not, it goes down in small steps; size is
// what is searched.
func (b *bench) measureLargest(ctx context.Context, p Point, size func(*Point) *int) error {
	n := *size(&p)
	if n > 0 && p.Length > b.Steps+1 {
		for try := 0; ; try++ {
			p = b.point(p.Kind, p.Batch, p.Length)
			if err := b.measure(ctx, &p); err != nil {
				return err
			}
			if !p.OutOfMemory || try == 8 {
				break
			}
			*size(&p) -= max(1, n>>7)
		}
	} else {
		p.OutOfMemory = true
	}
	b.add(p)
	return nil
}

// point is a measurement that is to be made.
func (b *bench) point(kind Kind, batch, length int) Point {
	return Point{Kind: kind, Batch: batch, Length: length, CacheLength: length - b.Steps - 1,
		KVFormula: int64(batch) * int64(length) * int64(b.result.KVBytes)}
}

// measure fills the cache of a point, takes the time of its steps and the
// memory that they need.
func (b *bench) measure(ctx context.Context, p *Point) error {
	ok, err := b.resize(p.Batch, p.Length)
	if err == nil && ok {
		err = b.time(ctx, p)
	}
	switch {
	case errors.Is(err, engine.ErrOutOfMemory), err == nil && !ok:
		p.OutOfMemory = true
		return nil
	case err != nil:
		return fmt.Errorf("batch %d, %d tokens: %w", p.Batch, p.Length, err)
	}
	held := b.dec.Memory()
	p.Memory, p.KVAllocated = b.eng.Info().Used, held.Cache
	p.Activations, p.Workspace = held.Activations, held.Workspace
	p.Beyond = beyond(p.Memory, b.result.Weights, p.KVFormula)
	return nil
}

// beyond is the share of memory that is neither weights nor what the formula of
// the cache gives, 0 where the memory is not known.
func beyond(memory, weights, formula int64) float64 {
	if memory == 0 {
		return 0
	}
	return float64(memory-weights-formula) / float64(memory)
}

// time runs the steps of a point once it has run one as a warm-up.
func (b *bench) time(ctx context.Context, p *Point) error {
	random := rand.New(rand.NewPCG(uint64(b.Seed), uint64(p.Batch)))
	tokens := make([]int32, p.Batch)
	for i := range tokens {
		tokens[i] = int32(random.IntN(b.cfg.VocabSize))
	}
	extend := func(steps int) (time.Duration, error) {
		if err := b.dec.Fill(ctx, p.CacheLength, uint64(b.Seed)); err != nil {
			return 0, err
		}
		start := time.Now()
		_, err := b.dec.Extend(ctx, tokens, steps)
		return max(time.Since(start), time.Nanosecond), err
	}
	affordable := func(step time.Duration) int { return int(b.Seconds / step.Seconds()) }
	step, err := extend(1)
	if err == nil && affordable(step) < b.Steps {
		step, err = extend(1) // the first may have prepared what later ones use
	}
	if err != nil {
		return err
	}
	p.Steps = min(b.Steps, max(1, affordable(step)))
	took := step
	if p.Steps > 1 {
		if took, err = extend(p.Steps); err != nil {
			return err
		}
	}
	p.Seconds = took.Seconds()
	p.TokensPerSecond = float64(p.Batch*p.Steps) / p.Seconds
	p.BytesPerStep = b.bytesRead(*p)
	p.BytesPerSecond = float64(p.BytesPerStep) * float64(p.Steps) / p.Seconds
	return nil
}

// bytesRead is the least that one step reads: the matrices once, and in every
// layer the keys and values of its owner, at the mean length of the steps.
// Sharing across layers saves room in memory, not this.
func (b *bench) bytesRead(p Point) int64 {
	weights := float64(b.result.Weights) * float64(b.cfg.Products()) / float64(b.cfg.Parameters())
	length := float64(p.CacheLength) + float64(p.Steps+1)/2
	return int64(weights + float64(p.Batch)*length*float64(b.result.KVBytesRead))
}

func (b *bench) add(p Point) {
	b.result.Points = append(b.result.Points, p)
	fmt.Fprintf(b.progress, "%s: %s\n", b.result.Name, p)
}
