package absorb

import (
	"fmt"

	gonumblas "gonum.org/v1/gonum/blas"

	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// metric says how much errors e in a source's channels count: e' G e, with G
// [d, d].
type metric []float64

// metrics gives the metric of each source of an owner.
func (f *fitting) metrics(owner int, w engine.Weights, o Options) (func(source) metric, error) {
	switch {
	case !o.Weighted:
		return f.plainMetric, nil
	case f.module == model.Key:
		return f.keyMetric, nil
	}
	outputs := map[int][]float32{}
	for _, l := range f.to.Members(owner) {
		var err error
		if outputs[l], err = w.Float32(model.LayerName(l, model.AttentionOut) + ".weight"); err != nil {
			return nil, err
		}
	}
	return func(s source) metric { return f.valueMetric(s, outputs) }, nil
}

// plainMetric counts every channel as often as query heads attend to the source.
func (f *fitting) plainMetric(s source) metric {
	d := f.src.HeadSize()
	g := make(metric, d*d)
	for i := range d {
		g[i*d+i] = float64(s.weight)
	}
	return g
}

// queries calls visit for every query head of the source model that attends to s.
func (f *fitting) queries(s source, visit func(layer, head int)) {
	for _, l := range f.from.Members(s.layer) {
		for h := s.head * f.members; h < (s.head+1)*f.members; h++ {
			visit(l, h)
		}
	}
}

// keyMetric is that of a source's keys, weighted: the mean of q q' over tokens,
// summed over its query heads, since an error e changes a score by q'e.
func (f *fitting) keyMetric(s source) metric {
	d := f.src.HeadSize()
	g := make(metric, d*d)
	f.queries(s, func(l, h int) {
		for i, v := range f.m.queries[l][h*d*d : (h+1)*d*d] {
			g[i] += v / float64(f.m.Tokens)
		}
	})
	return g
}

// valueMetric is that of a source's values, weighted: the sum of O'O over the
// output projections O [H, d] of its query heads.
func (f *fitting) valueMetric(s source, outputs map[int][]float32) metric {
	d, width := f.src.HeadSize(), f.src.HiddenSize
	g := make(metric, d*d)
	f.queries(s, func(l, h int) {
		for r := range width {
			row := outputs[l][r*width+h*d : r*width+(h+1)*d]
			for i, a := range row {
				for j, b := range row {
					g[i*d+j] += float64(a) * float64(b)
				}
			}
		}
	})
	return g
}

// roots are the lower Cholesky factors of metrics on channels [lo, hi), each
// [hi-lo, hi-lo]. A ridge of a millionth of their mean makes channels count
// that nothing reads.
func roots(metrics []metric, d, lo, hi int) ([][]float64, error) {
	w := hi - lo
	mean := 0.0
	for _, g := range metrics {
		for i := lo; i < hi; i++ {
			mean += g[i*d+i] / float64(w*len(metrics))
		}
	}
	ridge := 1e-6 * mean
	if mean == 0 {
		ridge = 1
	}
	out := make([][]float64, len(metrics))
	for m, g := range metrics {
		r := make([]float64, w*w)
		for i := range w {
			copy(r[i*w:(i+1)*w], g[(lo+i)*d+lo:])
			r[i*w+i] += ridge
		}
		if !lapack.Dpotrf(gonumblas.Lower, w, r, w) {
			return nil, fmt.Errorf("the weights of errors of its source %d are not positive definite", m)
		}
		for i := range w {
			clear(r[i*w+i+1 : (i+1)*w])
		}
		out[m] = r
	}
	return out, nil
}

// unweight is a = R'^-1 a in place, for a root R and a [w, w].
func unweight(r, a []float64, w int) {
	for i := w - 1; i >= 0; i-- {
		row := a[i*w : (i+1)*w]
		for k := i + 1; k < w; k++ {
			for c := range row {
				row[c] -= r[k*w+i] * a[k*w+c]
			}
		}
		for c := range row {
			row[c] /= r[i*w+i]
		}
	}
}
