package absorb

import (
	"context"
	"fmt"
	"math"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// maps take a shared head's keys and values to those of one source.
type maps struct {
	plane []complex128 // of each plane of rotary, key = plane * shared key
	key   []float64    // of the other channels, [d-r, d-r]
	value []float64    // [d, d]
}

// head is a fitted shared head.
type head struct {
	sharedHead
	key, value []float64 // projections, [d, H+1], the bias last
	maps       []maps    // of each source
	report     HeadReport
}

// Solution is what a fit found: the projections of shared heads and the maps
// that queries and outputs take up.
type Solution struct {
	src, dst model.Config
	heads    map[int][]head // by owner; none where an owner keeps its heads
	report   Report
}

// Report tells how well shared heads stand for their sources.
type Report struct {
	Tokens int           `json:"tokens"` // of calibration
	Owners []OwnerReport `json:"owners"`
	Heads  []HeadReport  `json:"heads"`
	Layers []LayerReport `json:"layers"`
}

// OwnerReport tells of an owner's inputs.
type OwnerReport struct {
	Layer  int     `json:"layer"`
	Ridge  float64 `json:"ridge"`  // added to every input's sum of squares
	Inputs int     `json:"inputs"` // channels and constant
	// Dependent counts the inputs that the others tell within 1e-7; a layer
	// norm alone makes one.
	Dependent int `json:"dependent_inputs"`
}

// HeadReport is the share of the variance of its sources' keys and values, over
// query heads and calibration tokens, that a shared head explains.
type HeadReport struct {
	Layer   int     `json:"layer"`
	Head    int     `json:"head"`
	Sources int     `json:"source_heads"`
	Key     float64 `json:"key_variance_explained"`
	// KeyRotary is of the channels that rotary turns, where there are any.
	KeyRotary float64 `json:"key_rotary_variance_explained,omitempty"`
	Value     float64 `json:"value_variance_explained"`
}

// LayerReport tells what a layer's projections took up.
type LayerReport struct {
	Layer int      `json:"layer"`
	Owner int      `json:"owner"`
	Into  []string `json:"folded_into"` // modules
	Heads int      `json:"query_heads"`
}

// Report is that of the fit.
func (s *Solution) Report() Report { return s.report }

// Fit solves the regressions of all shared heads of dst. progress, if not nil,
// is called after each owner.
func Fit(ctx context.Context, src, dst model.Config, w engine.Weights, m *Moments, o Options, progress func()) (*Solution, error) {
	if o.Ridge == 0 {
		o.Ridge = DefaultRidge
	}
	s := &Solution{src: src, dst: dst, heads: map[int][]head{}, report: Report{Tokens: m.Tokens}}
	for _, owner := range dst.Owner.List() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		heads := layout(src, dst, owner)
		if heads == nil {
			continue
		}
		if err := s.fitOwner(owner, heads, w, m, o); err != nil {
			return nil, fmt.Errorf("absorb: owner layer %d: %w", owner, err)
		}
		if progress != nil {
			progress()
		}
	}
	for l, owner := range dst.Owner {
		if s.heads[owner] != nil {
			s.report.Layers = append(s.report.Layers, LayerReport{l, owner, []string{model.Query, model.AttentionOut}, dst.Heads})
		}
	}
	return s, nil
}

// fitOwner fits all shared heads of one owner.
func (s *Solution) fitOwner(owner int, heads []sharedHead, w engine.Weights, m *Moments, o Options) error {
	n := s.src.HiddenSize + 1
	in, err := factor(m.cross[owner], n, o.Ridge)
	if err != nil {
		return err
	}
	s.report.Owners = append(s.report.Owners, OwnerReport{owner, in.ridge, n, in.dependent})
	keys, values := map[int]blas.Matrix[float64]{}, map[int]blas.Matrix[float64]{}
	for _, l := range sourceLayers(s.src, s.dst, owner) {
		whitened := in.whiten(blas.Dense(n, n, m.cross[l]))
		if keys[l], err = fitted(whitened, w, model.LayerName(l, model.Key)); err != nil {
			return err
		}
		if values[l], err = fitted(whitened, w, model.LayerName(l, model.Value)); err != nil {
			return err
		}
	}
	out, errs := make([]head, len(heads)), make([]error, len(heads))
	blas.Parallel(len(heads), func(i int) {
		out[i], errs[i] = s.fitHead(heads[i], in, keys, values, m)
	})
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("key/value head %d: %w", i, err)
		}
		s.report.Heads = append(s.report.Heads, out[i].report)
	}
	s.heads[owner] = out
	return nil
}

// fitted is the whitened fit of a projection's outputs, [H+1, out], from the
// whitened X_o' X_l of its layer: outputs are linear in the layer's own input.
func fitted(whitened blas.Matrix[float64], w engine.Weights, module string) (blas.Matrix[float64], error) {
	p, err := projection(w, module, whitened.Rows-1)
	if err != nil {
		return p, err
	}
	out := blas.Dense(whitened.Rows, p.Rows, make([]float64, whitened.Rows*p.Rows))
	blas.Gemm(blas.AsIs, blas.Transposed, 1, whitened, p, 0, out)
	return out, nil
}

// projection is a module's weight with its bias as a last column, [out, in+1].
func projection(w engine.Weights, module string, in int) (blas.Matrix[float64], error) {
	weight, err := w.Float32(module + ".weight")
	if err != nil {
		return blas.Matrix[float64]{}, err
	}
	bias, err := w.Float32(module + ".bias")
	if err != nil {
		return blas.Matrix[float64]{}, err
	}
	p := make([]float64, len(bias)*(in+1))
	for o, b := range bias {
		for i, v := range weight[o*in : (o+1)*in] {
			p[o*(in+1)+i] = float64(v)
		}
		p[o*(in+1)+in] = float64(b)
	}
	return blas.Dense(len(bias), in+1, p), nil
}

// gather puts channels [lo, hi) of every source beside each other, [n, sources *
// (hi-lo)], each times the root of the source's weight: a source counts as
// often as query heads attend to it.
func gather(sources []source, from map[int]blas.Matrix[float64], headSize, lo, hi int) blas.Matrix[float64] {
	n, width := from[sources[0].layer].Rows, hi-lo
	out := blas.Dense(n, len(sources)*width, make([]float64, n*len(sources)*width))
	for i, s := range sources {
		x, root := from[s.layer], math.Sqrt(float64(s.weight))
		for r := range n {
			to := out.Data[r*out.Stride+i*width:]
			for c, v := range x.Data[r*x.Stride+s.head*headSize+lo : r*x.Stride+s.head*headSize+hi] {
				to[c] = v * root
			}
		}
	}
	return out
}

// tally compares the squares that a fit explains with those there are.
type tally struct{ explained, total, centred float64 }

func (t *tally) add(u tally) {
	t.explained += u.explained
	t.total += u.total
	t.centred += u.centred
}

// share is the part of the variance that is explained, 1 where there is none.
func (t tally) share() float64 {
	if t.centred <= 0 {
		return 1
	}
	return min(1, 1-(t.total-t.explained)/t.centred)
}

// squares counts those of channels [lo, hi) of every source.
func squares(sources []source, from map[int]sums, headSize, lo, hi, tokens int) tally {
	var t tally
	for _, s := range sources {
		total, centred := from[s.layer].squares(s.head*headSize+lo, s.head*headSize+hi, tokens)
		t.total += total * float64(s.weight)
		t.centred += centred * float64(s.weight)
	}
	return t
}

// fitHead fits one shared head. Shared keys and values get the size of those
// that they stand for: the maps back keep lengths in the mean over query heads.
func (s *Solution) fitHead(sh sharedHead, in *inputs, keys, values map[int]blas.Matrix[float64], m *Moments) (head, error) {
	d, r := s.src.HeadSize(), s.src.RotaryDims()
	n, members := in.n, 0
	for _, src := range sh.sources {
		members += src.weight
	}
	root := math.Sqrt(float64(members))
	h := head{sharedHead: sh, key: make([]float64, d*n), value: make([]float64, d*n), maps: make([]maps, len(sh.sources))}

	value, err := reduce(gather(sh.sources, values, d, 0, d), d)
	if err != nil {
		return h, err
	}
	place(h.value, in.coefficients(value.fit), 0, 1, 1/root)
	rest, err := reduce(gather(sh.sources, keys, d, r, d), d-r)
	if err != nil {
		return h, err
	}
	place(h.key, in.coefficients(rest.fit), r, 1, 1/root)
	for i, src := range sh.sources {
		scale := root / math.Sqrt(float64(src.weight))
		h.maps[i].value = scaled(value.back.Data[i*d*d:(i+1)*d*d], scale)
		h.maps[i].key = scaled(rest.back.Data[i*(d-r)*(d-r):(i+1)*(d-r)*(d-r)], scale)
	}

	turned := tally{}
	for p := range r / 2 {
		re := gather(sh.sources, keys, d, p, p+1)
		im := gather(sh.sources, keys, d, p+r/2, p+r/2+1)
		pl, err := reducePlane(beside(re, im))
		if err != nil {
			return h, err
		}
		place(h.key, in.coefficients(pl.fit), p, r/2, 1/root)
		for i, src := range sh.sources {
			v := pl.back[i] * complex(root/math.Sqrt(float64(src.weight)), 0)
			h.maps[i].plane = append(h.maps[i].plane, complex(real(v), -imag(v)))
		}
		turned.explained += pl.explained
	}

	turned.add(squares(sh.sources, m.keys, d, 0, r, m.Tokens))
	all := turned
	all.add(tally{explained: rest.explained})
	all.add(squares(sh.sources, m.keys, d, r, d, m.Tokens))
	ofValues := squares(sh.sources, m.values, d, 0, d, m.Tokens)
	ofValues.explained = value.explained
	h.report = HeadReport{Layer: sh.owner, Head: sh.index, Sources: len(sh.sources), Key: all.share(), Value: ofValues.share()}
	if r > 0 {
		h.report.KeyRotary = turned.share()
	}
	return h, nil
}

// place writes the columns of coefficients [n, k] as rows first, first+step, ...
// of a projection [d, n].
func place(projection []float64, c blas.Matrix[float64], first, step int, scale float64) {
	for j := range c.Cols {
		row := projection[(first+j*step)*c.Rows:]
		for i := range c.Rows {
			row[i] = c.Data[i*c.Stride+j] * scale
		}
	}
}

// beside joins two matrices of equally many rows.
func beside(a, b blas.Matrix[float64]) blas.Matrix[float64] {
	out := blas.Dense(a.Rows, a.Cols+b.Cols, make([]float64, a.Rows*(a.Cols+b.Cols)))
	for i := range a.Rows {
		copy(out.Data[i*out.Stride:], a.Data[i*a.Stride:i*a.Stride+a.Cols])
		copy(out.Data[i*out.Stride+a.Cols:], b.Data[i*b.Stride:i*b.Stride+b.Cols])
	}
	return out
}

func scaled(x []float64, f float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v * f
	}
	return out
}
