package absorb

import (
	"fmt"

	gonumblas "gonum.org/v1/gonum/blas"
)

// metric says how much errors e in a source's channels count: e' G e, with G
// [d, d].
type metric []float64

// queries calls f for every query head of the source model that attends to s.
func (f *fitting) queries(s source, visit func(layer, head int)) {
	per := f.src.Heads / f.src.KVHeads
	for _, l := range f.src.Owner.Members(s.layer) {
		for h := s.head * per; h < (s.head+1)*per; h++ {
			visit(l, h)
		}
	}
}

// plain counts every channel as often as query heads attend to the source.
func plain(s source, d int) metric {
	g := make(metric, d*d)
	for i := range d {
		g[i*d+i] = float64(s.weight)
	}
	return g
}

// valueMetric is that of a source's values. Weighted, it is the sum of O'O over
// the output projections O [H, d] of its query heads.
func (f *fitting) valueMetric(s source) metric {
	d, width := f.src.HeadSize(), f.src.HiddenSize
	if f.outputs == nil {
		return plain(s, d)
	}
	g := make(metric, d*d)
	f.queries(s, func(l, h int) {
		for r := range width {
			row := f.outputs[l][r*width+h*d : r*width+(h+1)*d]
			for i, a := range row {
				for j, b := range row {
					g[i*d+j] += float64(a) * float64(b)
				}
			}
		}
	})
	return g
}

// keyMetric is that of a source's keys. Weighted, it is the mean of q q' over
// tokens, summed over its query heads: an error e changes a score by q'e.
func (f *fitting) keyMetric(s source) metric {
	d := f.src.HeadSize()
	if f.outputs == nil {
		return plain(s, d)
	}
	g := make(metric, d*d)
	f.queries(s, func(l, h int) {
		for i, v := range f.m.queries[l][h*d*d : (h+1)*d*d] {
			g[i] += v / float64(f.m.Tokens)
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
