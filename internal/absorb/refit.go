package absorb

import (
	"context"
	"fmt"
	"slices"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// refitRidge holds a refitted output projection near the folded one, in units
// of the mean square of an input channel.
const refitRidge = 1e-2

// Refit fits the output projections of attention anew, from the first layer
// that shares heads on: what the heads of the converted model put out, with all
// that went before them, is mapped to what the unconverted model's attention
// puts out, by least squares. All layers are fitted on one run of both models,
// so that repeating it, each time on the outcome of the time before, improves
// the fit further. It takes the memory of two models.
func (s *Solution) Refit(ctx context.Context, e engine.Observer, w engine.Weights, rows [][]int32, progress func(tokens int)) error {
	if s.firstShared() == s.dst.Layers {
		return nil
	}
	moments, err := s.outputMoments(ctx, e, w, rows, progress)
	if err != nil {
		return err
	}
	refitted := map[int][]float64{}
	for l, m := range moments {
		if refitted[l], err = s.refitLayer(l, w, m); err != nil {
			return fmt.Errorf("absorb: refit the output of layer %d: %w", l, err)
		}
	}
	s.outputs = refitted
	s.report.refitted(s.dst, s.firstShared())
	return nil
}

// firstShared is the first layer whose attention the conversion changes.
func (s *Solution) firstShared() int {
	l := 0
	for l < s.dst.Layers && !s.keys.shared(l) && !s.values.shared(l) {
		l++
	}
	return l
}

// outputSums are sums over tokens of what the heads of a layer put out, with a
// constant: z of the converted model and y of the source.
type outputSums struct {
	zz, zy []float64 // [H+1, H+1]
}

func (s *Solution) outputMoments(ctx context.Context, e engine.Observer, w engine.Weights, rows [][]int32, progress func(int)) (map[int]*outputSums, error) {
	batches, err := newBatches(s.src, rows)
	if err != nil {
		return nil, err
	}
	source, err := e.Collector(s.src, w, batches[0].rows, batches[0].length)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	dst := s.dst
	dst.IntermediateSize = s.src.IntermediateSize // growth keeps the function, or comes later
	converted, err := e.Collector(dst, overlay{s, w, parameters(dst)}, batches[0].rows, batches[0].length)
	if err != nil {
		return nil, err
	}
	defer converted.Close()
	h, n := s.src.HiddenSize, s.src.HiddenSize+1
	sums := map[int]*outputSums{}
	for l := s.firstShared(); l < s.src.Layers; l++ {
		sums[l] = &outputSums{make([]float64, n*n), make([]float64, n*n)}
	}
	for _, b := range batches {
		y := map[int]blas.Matrix[float64]{}
		err := source.Collect(ctx, b.tokens, func(a engine.Activations) error {
			if sums[a.Layer] != nil {
				y[a.Layer] = b.inputs(a.Output, h, nil)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		err = converted.Collect(ctx, b.tokens, func(a engine.Activations) error {
			if sum := sums[a.Layer]; sum != nil {
				z := b.inputs(a.Output, h, nil)
				addGram(sum.zz, z)
				blas.Gemm(blas.Transposed, blas.AsIs, 1, z, y[a.Layer], 1, blas.Dense(n, n, sum.zy))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if progress != nil {
			progress(b.counted)
		}
	}
	return sums, nil
}

// refitLayer solves (zz + ridge) P' = zy O' + ridge F', where O is the source's
// output projection and F the folded one, [H, H+1] with the bias last.
func (s *Solution) refitLayer(l int, w engine.Weights, m *outputSums) ([]float64, error) {
	n := s.src.HiddenSize + 1
	name := model.LayerName(l, model.AttentionOut)
	original, err := projection(w, name, n-1)
	if err != nil {
		return nil, err
	}
	folded := blas.Dense(n-1, n, append([]float64(nil), original.Data...))
	if s.values.shared(l) {
		s.foldOutput(l, folded)
	}
	in, err := factor(m.zz, n, refitRidge)
	if err != nil {
		return nil, err
	}
	right := blas.Dense(n, n-1, make([]float64, n*(n-1)))
	blas.Gemm(blas.AsIs, blas.Transposed, 1, blas.Dense(n, n, m.zy), original, 0, right)
	for i := range n {
		for o := range n - 1 {
			right.Data[i*right.Stride+o] += in.ridge * folded.Data[o*n+i]
		}
	}
	c := in.coefficients(in.whiten(right))
	out := make([]float64, (n-1)*n)
	for i := range n {
		for o := range n - 1 {
			out[o*n+i] = c.Data[i*c.Stride+o]
		}
	}
	return out, nil
}

// overlay is the converted model: what a solution makes over the source's
// parameters.
type overlay struct {
	s      *Solution
	w      engine.Weights
	params map[string]model.Param
}

func parameters(cfg model.Config) map[string]model.Param {
	out := map[string]model.Param{}
	for _, p := range cfg.Params() {
		out[p.Name] = p
	}
	return out
}

// Float32 implements engine.Weights.
func (o overlay) Float32(name string) ([]float32, error) {
	if p, ok := o.params[name]; ok && o.s.Changes(p) {
		return o.s.Make(o.w, p)
	}
	return o.w.Float32(name)
}

// refitted counts a refit of all layers from first on.
func (r *Report) refitted(dst model.Config, first int) {
	at := map[int]int{}
	for i, l := range r.Layers {
		at[l.Layer] = i
	}
	for l := first; l < dst.Layers; l++ {
		if _, ok := at[l]; !ok {
			r.Layers = append(r.Layers, newLayerReport(dst, l))
			at[l] = len(r.Layers) - 1
		}
		r.Layers[at[l]].Refit++
	}
	slices.SortFunc(r.Layers, func(a, b LayerReport) int { return a.Layer - b.Layer })
}
