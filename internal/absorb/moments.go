package absorb

import (
	"context"
	"fmt"
	"math"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// Moments are the sums over calibration tokens that a fit needs. An input x is
// that of a layer's attention after layer norm with a constant 1 behind it,
// [H+1]. Keys and values are linear in it, so products of inputs tell all about
// them.
type Moments struct {
	Tokens int
	// cross holds, for each layer s that owns keys and values in the source,
	// the sum of x_o x_s', [H+1, H+1], where o is its owner in the target.
	cross map[int][]float64
	// keys and values hold sums over the channels of that layer's keys before
	// rotary and values.
	keys, values map[int]sums
}

// sums are, for each channel, its sum and its sum of squares.
type sums struct{ x, xx []float64 }

func newSums(width int) sums { return sums{make([]float64, width), make([]float64, width)} }

// add takes up rows of activations.
func (s sums) add(x []float32) {
	for i, v := range x {
		c := i % len(s.x)
		s.x[c] += float64(v)
		s.xx[c] += float64(v) * float64(v)
	}
}

// squares is the sum of squares over channels [lo, hi) and the part of it that
// is about the channels' means over n tokens.
func (s sums) squares(lo, hi, n int) (total, centred float64) {
	for c := lo; c < hi; c++ {
		total += s.xx[c]
		centred += s.xx[c] - s.x[c]*s.x[c]/float64(n)
	}
	return total, max(0, centred)
}

// batchTokens is about how many tokens are run at once.
const batchTokens = 2048

// Collect runs rows of tokens through the unconverted model. The order of the
// rows does not matter beyond rounding; rows longer than the model's positions
// are cut. progress, if not nil, is told the number of tokens done. Errors in
// the rows carry ui.ExitInput.
func Collect(ctx context.Context, o engine.Observer, src, dst model.Config, w engine.Weights, rows [][]int32, progress func(tokens int)) (*Moments, error) {
	length, total := 0, 0
	for i, row := range rows {
		if err := engine.CheckTokens(row, src.VocabSize); err != nil {
			return nil, ui.Inputf("calibration: row %d: %w; the text belongs to another tokenizer", i, err)
		}
		rows[i] = row[:min(len(row), src.MaxPositions)]
		length, total = max(length, len(rows[i])), total+len(rows[i])
	}
	if err := checkTokens(src, total); err != nil {
		return nil, ui.Inputf("calibration: %w", err)
	}
	perBatch := max(1, min(len(rows), batchTokens/length))
	c, err := o.Collector(src, w, perBatch, length)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m := newMoments(src, dst)
	for at := 0; at < len(rows); at += perBatch {
		b := newBatch(rows[at:min(at+perBatch, len(rows))], perBatch, length)
		if err := m.add(ctx, c, src, dst, b); err != nil {
			return nil, err
		}
		if progress != nil {
			progress(b.counted)
		}
	}
	return m, m.finite()
}

func newMoments(src, dst model.Config) *Moments {
	m := &Moments{cross: map[int][]float64{}, keys: map[int]sums{}, values: map[int]sums{}}
	n := src.HiddenSize + 1
	for _, o := range dst.Owner.List() {
		if kept(src, dst, o) {
			continue
		}
		for _, s := range sourceLayers(src, dst, o) {
			m.cross[s] = make([]float64, n*n)
			m.keys[s], m.values[s] = newSums(src.KVSize()), newSums(src.KVSize())
		}
	}
	return m
}

// batch is rows laid out for a collector.
type batch struct {
	length  int
	tokens  []int32
	used    []int // tokens of each row; what follows is padding
	counted int
}

func newBatch(rows [][]int32, perBatch, length int) batch {
	b := batch{length: length, tokens: make([]int32, perBatch*length)}
	for r, row := range rows {
		copy(b.tokens[r*length:], row)
		b.used = append(b.used, len(row))
		b.counted += len(row)
	}
	return b
}

// pack leaves the padding out of activations of the given width.
func (b batch) pack(x []float32, width int) []float32 {
	if b.counted*width == len(x) {
		return x
	}
	out := make([]float32, 0, b.counted*width)
	for r, n := range b.used {
		out = append(out, x[r*b.length*width:(r*b.length+n)*width]...)
	}
	return out
}

// inputs packs inputs of H channels and puts the constant behind them.
func (b batch) inputs(x []float32, h int) blas.Matrix[float64] {
	x = b.pack(x, h)
	out := make([]float64, b.counted*(h+1))
	blas.Chunks(b.counted, 64, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			to := out[t*(h+1) : (t+1)*(h+1)]
			for i, v := range x[t*h : (t+1)*h] {
				to[i] = float64(v)
			}
			to[h] = 1
		}
	})
	return blas.Dense(b.counted, h+1, out)
}

// add takes up one batch.
func (m *Moments) add(ctx context.Context, c engine.Collector, src, dst model.Config, b batch) error {
	held := map[int]blas.Matrix[float64]{} // inputs of owners
	h := src.HiddenSize
	err := c.Collect(ctx, b.tokens, func(a engine.Activations) error {
		sum, ok := m.cross[a.Layer]
		if !ok {
			return nil
		}
		x := b.inputs(a.Input, h)
		owner := dst.Owner[a.Layer]
		if owner == a.Layer {
			held[owner] = x
		}
		blas.Gemm(blas.Transposed, blas.AsIs, 1, held[owner], x, 1, blas.Dense(h+1, h+1, sum))
		m.keys[a.Layer].add(b.pack(a.Key, src.KVSize()))
		m.values[a.Layer].add(b.pack(a.Value, src.KVSize()))
		return nil
	})
	m.Tokens += b.counted
	return err
}

// finite reports the first layer whose activations were not finite.
func (m *Moments) finite() error {
	for l := range m.cross {
		for _, list := range [][]float64{m.cross[l], m.keys[l].xx, m.values[l].xx} {
			for _, v := range list {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					return fmt.Errorf("calibration: layer %d: expected finite activations, found %g", l, v)
				}
			}
		}
	}
	return nil
}
