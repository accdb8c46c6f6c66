package absorb

import (
	"context"
	"fmt"
	"math"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
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
	// queries holds, for each layer whose queries meet shared keys, the sum of
	// q q' of every head, [heads, d, d]. A fit that is not weighted lacks it.
	queries map[int][]float64
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

// Collect runs rows of tokens through the unconverted model. Rows longer than
// the model's positions are cut. Fit must be given the same options. progress, if not nil, is told the number of
// tokens done. Errors in the rows carry ui.ExitInput.
func Collect(ctx context.Context, o engine.Observer, src, dst model.Config, w engine.Weights, rows [][]int32, opt Options, progress func(tokens int)) (*Moments, error) {
	batches, err := newBatches(src, rows)
	if err != nil {
		return nil, err
	}
	c, err := o.Collector(src, w, batches[0].rows, batches[0].length)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m := newMoments(src, dst, opt)
	for _, b := range batches {
		if err := m.add(ctx, c, src, dst, b); err != nil {
			return nil, err
		}
		if progress != nil {
			progress(b.counted)
		}
	}
	return m, m.finite()
}

func newMoments(src, dst model.Config, o Options) *Moments {
	m := &Moments{cross: map[int][]float64{}, keys: map[int]sums{}, values: map[int]sums{}, queries: map[int][]float64{}}
	n := src.HiddenSize + 1
	for _, owner := range dst.Owner.List() {
		if kept(src, dst, owner) {
			continue
		}
		for _, l := range dst.Owner.Members(owner) {
			if o.Weighted {
				m.queries[l] = make([]float64, src.HiddenSize*src.HeadSize())
			}
		}
		for _, s := range sourceLayers(src, dst, owner) {
			m.cross[s] = make([]float64, n*n)
			m.keys[s], m.values[s] = newSums(src.KVSize()), newSums(src.KVSize())
		}
	}
	return m
}

// add takes up one batch.
func (m *Moments) add(ctx context.Context, c engine.Collector, src, dst model.Config, b batch) error {
	held := map[int]blas.Matrix[float64]{} // inputs of owners
	h := src.HiddenSize
	err := c.Collect(ctx, b.tokens, func(a engine.Activations) error {
		if sum, ok := m.queries[a.Layer]; ok {
			addQueries(sum, b.pack(a.Query, h), src.Heads, src.HeadSize())
		}
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

// addQueries adds q q' of every head to sum [heads, d, d].
func addQueries(sum []float64, x []float32, heads, d int) {
	n := len(x) / (heads * d)
	blas.Parallel(heads, func(h int) {
		q := make([]float64, n*d)
		for t := range n {
			for c, v := range x[(t*heads+h)*d : (t*heads+h+1)*d] {
				q[t*d+c] = float64(v)
			}
		}
		x := blas.Dense(n, d, q)
		blas.Serial(blas.Transposed, blas.AsIs, 1, x, x, 1, blas.Dense(d, d, sum[h*d*d:(h+1)*d*d]))
	})
}

// finite reports a layer whose activations were not finite.
func (m *Moments) finite() error {
	for l := range m.cross {
		for _, list := range [][]float64{m.cross[l], m.queries[l], m.keys[l].xx, m.values[l].xx} {
			for _, v := range list {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					return fmt.Errorf("calibration: layer %d: expected finite activations, found %g", l, v)
				}
			}
		}
	}
	return nil
}
