package absorb

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// backMap takes a shared head's keys, or values, to those of one source.
type backMap struct {
	plane []complex128 // of each plane of rotary, key = plane * shared key
	rest  []float64    // of the other channels, [d-r, d-r]; values have no planes
}

// head is a fitted shared head.
type head struct {
	sharedHead
	projection []float64 // [d, H+1], the bias last
	maps       []backMap // of each source
	// turned and rest tell how much of the planes and of the other channels it
	// explains.
	turned, rest tally
}

// sharedSide are the fitted heads of keys, or of values, by owner; none where
// an owner keeps its heads.
type sharedSide struct {
	side
	heads map[int][]head
}

// shared reports whether a layer attends to fitted heads.
func (s sharedSide) shared(layer int) bool { return s.heads[s.to[layer]] != nil }

// Solution is what a fit found: the projections of shared heads and the maps
// that queries and outputs take up.
type Solution struct {
	src, dst     model.Config
	keys, values sharedSide
	// outputs are output projections that Refit made, [H, H+1] by layer.
	outputs map[int][]float64
	report  Report
}

func newSolution(src, dst model.Config) *Solution {
	return &Solution{
		src: src, dst: dst, outputs: map[int][]float64{},
		keys:   sharedSide{keySide(src, dst), map[int][]head{}},
		values: sharedSide{valueSide(src, dst), map[int][]head{}},
	}
}

// Report is that of the fit.
func (s *Solution) Report() Report { return s.report }

// Fit solves the regressions of all shared heads of dst. progress, if not nil,
// is called after each layer that owns any.
func Fit(ctx context.Context, src, dst model.Config, w engine.Weights, m *Moments, o Options, progress func()) (*Solution, error) {
	if o.Ridge == 0 {
		o.Ridge = DefaultRidge
	}
	s := newSolution(src, dst)
	s.report.Tokens = m.Tokens
	sides := s.sharing()
	owners := slices.Sorted(maps.Keys(sides))
	fits, errs := make([]ownerFit, len(owners)), make([]error, len(owners))
	var done sync.Mutex
	blas.Parallel(len(owners), func(i int) {
		if errs[i] = ctx.Err(); errs[i] != nil {
			return
		}
		fits[i], errs[i] = fitOwner(owners[i], sides[owners[i]], src, w, m, o)
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
		s.take(owner, fits[i])
	}
	s.report.Layers = s.layerReports()
	return s, nil
}

// sharing gives, for each layer that owns shared heads, the sides that they are
// of.
func (s *Solution) sharing() map[int][]side {
	out := map[int][]side{}
	for _, of := range []side{s.keys.side, s.values.side} {
		for _, owner := range of.sharing() {
			out[owner] = append(out[owner], of)
		}
	}
	return out
}

// take adds the fitted heads of an owner.
func (s *Solution) take(owner int, f ownerFit) {
	keys, values := f.heads[model.Key], f.heads[model.Value]
	s.keys.heads[owner], s.values.heads[owner] = keys, values
	s.report.Owners = append(s.report.Owners, f.report)
	s.report.Heads = append(s.report.Heads, headReports(keys, values)...)
}

// ownerFit are the fitted shared heads of one owner, by the module of their side.
type ownerFit struct {
	heads  map[string][]head
	report OwnerReport
}

func fitOwner(owner int, sides []side, src model.Config, w engine.Weights, m *Moments, o Options) (ownerFit, error) {
	in, err := factor(m.cross[owner][owner], src.HiddenSize+1, o.Ridge)
	if err != nil {
		return ownerFit{}, err
	}
	fittings, err := newFittings(owner, sides, src, in, w, m, o)
	if err != nil {
		return ownerFit{}, err
	}
	type job struct {
		f *fitting
		sharedHead
	}
	var jobs []job
	for _, f := range fittings {
		for _, sh := range f.layout(owner) {
			jobs = append(jobs, job{f, sh})
		}
	}
	heads, errs := make([]head, len(jobs)), make([]error, len(jobs))
	blas.Parallel(len(jobs), func(i int) { heads[i], errs[i] = jobs[i].f.fit(jobs[i].sharedHead) })
	out := ownerFit{map[string][]head{}, OwnerReport{owner, in.ridge, in.n, in.dependent}}
	for i, job := range jobs {
		if errs[i] != nil {
			return ownerFit{}, fmt.Errorf("key/value head %d: %w", job.index, errs[i])
		}
		out.heads[job.f.module] = append(out.heads[job.f.module], heads[i])
	}
	return out, nil
}

// fitting is what the shared heads of one owner and side are fitted from.
type fitting struct {
	side
	src model.Config
	m   *Moments
	in  *inputs
	// wanted holds the keys or values of each source layer as regressions on the
	// owner's inputs tell them, whitened, [H+1, kv_heads*d].
	wanted map[int]blas.Matrix[float64]
	// metric says how much errors in a source count.
	metric func(source) metric
}

// newFittings regresses an owner's sources on its inputs.
func newFittings(owner int, sides []side, src model.Config, in *inputs, w engine.Weights, m *Moments, o Options) ([]*fitting, error) {
	var out []*fitting
	for _, s := range sides {
		f := &fitting{side: s, src: src, m: m, in: in, wanted: map[int]blas.Matrix[float64]{}}
		var err error
		if f.metric, err = f.metrics(owner, w, o); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	for l := range src.Layers {
		cross, ok := m.cross[l][owner]
		if !ok {
			continue
		}
		whitened := in.whiten(blas.Dense(in.n, in.n, cross))
		for _, f := range out {
			if !slices.Contains(f.layers(owner), l) {
				continue
			}
			var err error
			if f.wanted[l], err = fitted(whitened, w, model.LayerName(l, f.module)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
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
