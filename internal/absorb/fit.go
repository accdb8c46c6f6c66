package absorb

import (
	"context"
	"fmt"
	"sync"

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
	// outputs are output projections that Refit made, [H, H+1] by layer.
	outputs map[int][]float64
	report  Report
}

// Report is that of the fit.
func (s *Solution) Report() Report { return s.report }

// Fit solves the regressions of all shared heads of dst. progress, if not nil,
// is called after each owner.
func Fit(ctx context.Context, src, dst model.Config, w engine.Weights, m *Moments, o Options, progress func()) (*Solution, error) {
	if o.Ridge == 0 {
		o.Ridge = DefaultRidge
	}
	s := &Solution{src: src, dst: dst, heads: map[int][]head{}, outputs: map[int][]float64{}, report: Report{Tokens: m.Tokens}}
	var owners []int
	for _, owner := range dst.Owner.List() {
		if !kept(src, dst, owner) {
			owners = append(owners, owner)
		}
	}
	fits, errs := make([]ownerFit, len(owners)), make([]error, len(owners))
	var done sync.Mutex
	blas.Parallel(len(owners), func(i int) {
		if errs[i] = ctx.Err(); errs[i] != nil {
			return
		}
		fits[i], errs[i] = fitOwner(owners[i], layout(src, dst, owners[i]), src, dst, w, m, o)
		if progress != nil {
			done.Lock()
			defer done.Unlock()
			progress()
		}
	})
	for i, owner := range owners {
		if errs[i] != nil {
			return nil, fmt.Errorf("absorb: owner layer %d: %w", owner, errs[i])
		}
		s.heads[owner] = fits[i].heads
		s.report.Owners = append(s.report.Owners, fits[i].report)
		for _, h := range fits[i].heads {
			s.report.Heads = append(s.report.Heads, h.report)
		}
	}
	for l, owner := range dst.Owner {
		if s.heads[owner] != nil {
			s.report.Layers = append(s.report.Layers, LayerReport{
				Layer: l, Owner: owner, Into: []string{model.Query, model.AttentionOut}, Heads: dst.Heads,
			})
		}
	}
	return s, nil
}

// ownerFit are the fitted shared heads of one owner.
type ownerFit struct {
	heads  []head
	report OwnerReport
}

func fitOwner(owner int, heads []sharedHead, src, dst model.Config, w engine.Weights, m *Moments, o Options) (ownerFit, error) {
	f, err := newFitting(owner, src, dst, w, m, o)
	if err != nil {
		return ownerFit{}, err
	}
	out := ownerFit{make([]head, len(heads)), OwnerReport{owner, f.in.ridge, f.in.n, f.in.dependent}}
	errs := make([]error, len(heads))
	blas.Parallel(len(heads), func(i int) { out.heads[i], errs[i] = f.fit(heads[i]) })
	for i, err := range errs {
		if err != nil {
			return ownerFit{}, fmt.Errorf("key/value head %d: %w", i, err)
		}
	}
	return out, nil
}

// fitting is what the shared heads of one owner are fitted from.
type fitting struct {
	src model.Config
	m   *Moments
	in  *inputs
	// keys and values of each source layer as regressions on the owner's inputs
	// tell them, whitened, [H+1, kv_heads*d].
	keys, values map[int]blas.Matrix[float64]
	// outputs are the members' output projections, [H, heads*d], where errors
	// are weighted.
	outputs map[int][]float32
}

// newFitting factors an owner's inputs and regresses its sources on them.
func newFitting(owner int, src, dst model.Config, w engine.Weights, m *Moments, o Options) (*fitting, error) {
	n := src.HiddenSize + 1
	f := &fitting{src: src, m: m, keys: map[int]blas.Matrix[float64]{}, values: map[int]blas.Matrix[float64]{}}
	var err error
	if f.in, err = factor(m.cross[owner], n, o.Ridge); err != nil {
		return nil, err
	}
	for _, l := range sourceLayers(src, dst, owner) {
		whitened := f.in.whiten(blas.Dense(n, n, m.cross[l]))
		if f.keys[l], err = fitted(whitened, w, model.LayerName(l, model.Key)); err != nil {
			return nil, err
		}
		if f.values[l], err = fitted(whitened, w, model.LayerName(l, model.Value)); err != nil {
			return nil, err
		}
	}
	if !o.Weighted {
		return f, nil
	}
	f.outputs = map[int][]float32{}
	for _, l := range dst.Owner.Members(owner) {
		if f.outputs[l], err = w.Float32(model.LayerName(l, model.AttentionOut) + ".weight"); err != nil {
			return nil, err
		}
	}
	return f, nil
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
