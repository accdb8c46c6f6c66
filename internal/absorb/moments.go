package absorb

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

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
	// cross holds, for each layer s that owns keys or values in the source, the
	// sum of x_o x_s', [H+1, H+1], by the layer o that owns them in the target:
	// one, or two where keys and values have owners of their own.
	cross map[int]map[int][]float64
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
	width := len(s.x)
	blas.Chunks(width, 128, func(lo, hi int) {
		for at := 0; at < len(x); at += width {
			for c, v := range x[at+lo : at+hi] {
				s.x[lo+c] += float64(v)
				s.xx[lo+c] += float64(v) * float64(v)
			}
		}
	})
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

// Collect runs rows of tokens through the unconverted model, long ones in pieces.
// Fit must be given the same options. progress, if not nil, is told the number of
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
	held := heldInputs{owners: map[int]blas.Matrix[float64]{}}
	for _, b := range batches {
		if err := m.add(ctx, c, src, b, &held); err != nil {
			return nil, err
		}
		if progress != nil {
			progress(b.counted)
		}
	}
	return m, m.finite()
}

func newMoments(src, dst model.Config, o Options) *Moments {
	m := &Moments{cross: map[int]map[int][]float64{}, keys: map[int]sums{}, values: map[int]sums{}, queries: map[int][]float64{}}
	keys, values := keySide(src, dst), valueSide(src, dst)
	for _, owner := range keys.sharing() {
		m.want(keys, owner, src, m.keys)
		if !o.Weighted {
			continue
		}
		for _, l := range dst.Owner.Members(owner) {
			m.queries[l] = make([]float64, src.HiddenSize*src.HeadSize())
		}
	}
	for _, owner := range values.sharing() {
		m.want(values, owner, src, m.values)
	}
	return m
}

// want makes room for what the shared heads of an owner are fitted from; of holds
// the sums of its side.
func (m *Moments) want(s side, owner int, src model.Config, of map[int]sums) {
	n := src.HiddenSize + 1
	for _, l := range s.layers(owner) {
		of[l] = newSums(src.KVSize())
		if m.cross[l] == nil {
			m.cross[l] = map[int][]float64{}
		}
		if m.cross[l][owner] == nil {
			m.cross[l][owner] = make([]float64, n*n)
		}
	}
}

// heldInputs are those of a batch, in memory that serves the next batch again.
type heldInputs struct {
	owners map[int]blas.Matrix[float64]
	other  []float64 // of the layer at hand, if it is no owner
}

// add takes up one batch.
func (m *Moments) add(ctx context.Context, c engine.Collector, src model.Config, b batch, held *heldInputs) error {
	err := c.Collect(ctx, b.tokens, func(a engine.Activations) error {
		if sum, ok := m.queries[a.Layer]; ok {
			addQueries(sum, b.pack(a.Query, src.HiddenSize), src.Heads, src.HeadSize())
		}
		if sum, ok := m.keys[a.Layer]; ok {
			sum.add(b.pack(a.Key, src.KVSize()))
		}
		if sum, ok := m.values[a.Layer]; ok {
			sum.add(b.pack(a.Value, src.KVSize()))
		}
		m.addInputs(a, src.HiddenSize, b, held)
		return nil
	})
	m.Tokens += b.counted
	return err
}

// addInputs takes up the products of a layer's inputs with those of its owners.
func (m *Moments) addInputs(a engine.Activations, h int, b batch, held *heldInputs) {
	sums, ok := m.cross[a.Layer]
	if !ok {
		return
	}
	var x blas.Matrix[float64]
	if _, owns := sums[a.Layer]; owns {
		x = b.inputs(a.Input, h, held.owners[a.Layer].Data)
		held.owners[a.Layer] = x
	} else {
		x = b.inputs(a.Input, h, held.other)
		held.other = x.Data
	}
	for owner, sum := range sums {
		if owner == a.Layer {
			addGram(sum, x)
		} else {
			blas.Gemm(blas.Transposed, blas.AsIs, 1, held.owners[owner], x, 1, blas.Dense(h+1, h+1, sum))
		}
	}
}

// gramTile is the size of the parts in which addGram computes a product.
const gramTile = 128

// addGram adds x'x to a symmetric sum [cols, cols], which takes half of what
// the product of two matrices takes.
func addGram(sum []float64, x blas.Matrix[float64]) {
	n := x.Cols
	part := func(lo int) blas.Matrix[float64] {
		return blas.Matrix[float64]{Rows: x.Rows, Cols: min(gramTile, n-lo), Stride: x.Stride, Data: x.Data[lo:]}
	}
	var tiles [][2]int
	for r := 0; r < n; r += gramTile {
		for c := 0; c <= r; c += gramTile {
			tiles = append(tiles, [2]int{r, c})
		}
	}
	blas.Parallel(len(tiles), func(i int) {
		r, c := tiles[i][0], tiles[i][1]
		a, b := part(r), part(c)
		blas.Serial(blas.Transposed, blas.AsIs, 1, a, b, 1, blas.Matrix[float64]{Rows: a.Cols, Cols: b.Cols, Stride: n, Data: sum[r*n+c:]})
		for i := r; i < r+a.Cols; i++ {
			for j := c; j < min(i, c+b.Cols); j++ {
				sum[j*n+i] = sum[i*n+j]
			}
		}
	})
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
	for l, sums := range m.cross {
		lists := [][]float64{m.queries[l], m.keys[l].xx, m.values[l].xx}
		for _, list := range slices.AppendSeq(lists, maps.Values(sums)) {
			for _, v := range list {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					return fmt.Errorf("calibration: layer %d: expected finite activations, found %g", l, v)
				}
			}
		}
	}
	return nil
}
