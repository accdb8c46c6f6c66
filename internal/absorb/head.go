package absorb

import (
	"math"

	"mlkv/internal/blas"
	"mlkv/internal/model"
)

// fit fits one shared head. Values are as keys that rotary turns nothing of.
func (f *fitting) fit(sh sharedHead) (head, error) {
	d, r, n := f.src.HeadSize(), f.rotary, f.in.n
	h := head{sharedHead: sh, projection: make([]float64, d*n), maps: make([]backMap, len(sh.sources))}
	var metrics []metric
	for _, s := range sh.sources {
		metrics = append(metrics, f.metric(s))
	}
	of := f.m.keys
	if f.module == model.Value {
		of = f.m.values
	}

	rest, err := f.fitChannels(sh, metrics, r, d)
	if err != nil {
		return h, err
	}
	place(h.projection, f.in.coefficients(rest.fit), r, 1)
	for i := range h.maps {
		h.maps[i].rest = rest.back[i]
	}
	h.rest = squares(sh.sources, of, d, r, d, f.m.Tokens)
	h.rest.explained = rest.explained

	h.turned = squares(sh.sources, of, d, 0, r, f.m.Tokens)
	for p := range r / 2 {
		pl, err := f.fitPlane(sh, metrics, p)
		if err != nil {
			return h, err
		}
		place(h.projection, f.in.coefficients(pl.fit), p, r/2)
		for i, v := range pl.back {
			h.maps[i].plane = append(h.maps[i].plane, complex(real(v), -imag(v)))
		}
		h.turned.explained += pl.explained
	}
	return h, nil
}

// channelFit is as many shared channels as a source has, fit [H+1, w] whitened,
// and the maps back [w, w]: a source's channels are nearly fit back'.
type channelFit struct {
	fit       blas.Matrix[float64]
	back      [][]float64
	explained float64 // sum of squares over query heads
}

// fitChannels fits channels [lo, hi) of all sources at once. The columns of the
// maps are scaled such that a shared channel has the size of those that it
// stands for.
func (f *fitting) fitChannels(sh sharedHead, metrics []metric, lo, hi int) (channelFit, error) {
	d, n, w := f.src.HeadSize(), f.in.n, hi-lo
	out := channelFit{fit: blas.Dense(n, w, make([]float64, n*w)), back: make([][]float64, len(sh.sources))}
	if w == 0 {
		return out, nil
	}
	weights, err := roots(metrics, d, lo, hi)
	if err != nil {
		return out, err
	}
	all := blas.Dense(n, len(sh.sources)*w, make([]float64, n*len(sh.sources)*w))
	for i, s := range sh.sources {
		to := blas.Matrix[float64]{Rows: n, Cols: w, Stride: all.Stride, Data: all.Data[i*w:]}
		blas.Serial(blas.AsIs, blas.AsIs, 1, channels(f.wanted, s, d, lo, hi), blas.Dense(w, w, weights[i]), 0, to)
	}
	b, err := reduce(all, w)
	if err != nil {
		return out, err
	}
	out.fit = b.fit
	// A source y with root R: y R = fit e', hence y = fit (R'^-1 e)'.
	size, members := make([]float64, w), 0.0
	for i, s := range sh.sources {
		a := b.back.Data[i*w*w : (i+1)*w*w]
		unweight(weights[i], a, w)
		out.back[i] = a
		members += float64(s.weight)
		for k, v := range a {
			size[k%w] += float64(s.weight) * v * v
		}
	}
	scale(out, size, members)
	for i, s := range sh.sources {
		out.explained += float64(s.weight) * explains(channels(f.wanted, s, d, lo, hi), out.fit, blas.Dense(w, w, out.back[i]))
	}
	return out, nil
}

// scale makes the squares of a column of the maps, which sum to size over query
// heads, sum to their number.
func scale(f channelFit, size []float64, members float64) {
	w := len(size)
	for c, sum := range size {
		if sum == 0 {
			continue
		}
		by := math.Sqrt(members / sum)
		for _, a := range f.back {
			for r := range w {
				a[r*w+c] *= by
			}
		}
		for r := range f.fit.Rows {
			f.fit.Data[r*w+c] /= by
		}
	}
}

// channels is the part of a layer's fit that is channels [lo, hi) of a source.
func channels(from map[int]blas.Matrix[float64], s source, headSize, lo, hi int) blas.Matrix[float64] {
	x := from[s.layer]
	return blas.Matrix[float64]{Rows: x.Rows, Cols: hi - lo, Stride: x.Stride, Data: x.Data[s.head*headSize+lo:]}
}

// explains is by how much the sum of squares of y falls when fit back' is taken
// from it.
func explains(y, fit, back blas.Matrix[float64]) float64 {
	guess := blas.Dense(y.Rows, y.Cols, make([]float64, y.Rows*y.Cols))
	blas.Serial(blas.AsIs, blas.Transposed, 1, fit, back, 0, guess)
	sum := 0.0
	for r := range y.Rows {
		for c := range y.Cols {
			g := guess.Data[r*y.Cols+c]
			sum += g * (2*y.Data[r*y.Stride+c] - g)
		}
	}
	return sum
}

// fitPlane fits plane p of rotary. Errors count alike in all directions of the
// plane, since rotary turns them.
func (f *fitting) fitPlane(sh sharedHead, metrics []metric, p int) (plane, error) {
	d, n, k := f.src.HeadSize(), f.in.n, len(sh.sources)
	other := p + f.rotary/2
	z := blas.Dense(n, 2*k, make([]float64, n*2*k))
	weights := make([]float64, k)
	mean := 0.0
	for i, g := range metrics {
		weights[i] = (g[p*d+p] + g[other*d+other]) / 2
		mean += weights[i] / float64(k)
	}
	for i, s := range sh.sources {
		if mean == 0 {
			weights[i] = 1
		}
		weights[i] = math.Sqrt(weights[i] + 1e-6*mean)
		x := f.wanted[s.layer]
		for row := range n {
			at := x.Data[row*x.Stride+s.head*d:]
			z.Data[row*2*k+i], z.Data[row*2*k+k+i] = weights[i]*at[p], weights[i]*at[other]
		}
	}
	pl, err := reducePlane(z)
	if err != nil {
		return pl, err
	}
	size, members := 0.0, 0.0
	for i, s := range sh.sources {
		pl.back[i] /= complex(weights[i], 0)
		re, im := real(pl.back[i]), imag(pl.back[i])
		size += float64(s.weight) * (re*re + im*im)
		members += float64(s.weight)
	}
	by := math.Sqrt(members / size)
	for i := range pl.fit.Data {
		pl.fit.Data[i] /= by
	}
	pl.explained = 0
	for i, s := range sh.sources {
		pl.back[i] *= complex(by, 0)
		x, re, im := f.wanted[s.layer], real(pl.back[i]), imag(pl.back[i])
		y := blas.Dense(n, 2, make([]float64, 2*n))
		for row := range n {
			at := x.Data[row*x.Stride+s.head*d:]
			y.Data[2*row], y.Data[2*row+1] = at[p], at[other]
		}
		// fit conj(back), as a real map.
		pl.explained += float64(s.weight) * explains(y, pl.fit, blas.Dense(2, 2, []float64{re, im, -im, re}))
	}
	return pl, nil
}

// place writes the columns of coefficients [n, k] as rows first, first+step, ...
// of a projection [d, n].
func place(projection []float64, c blas.Matrix[float64], first, step int) {
	for j := range c.Cols {
		row := projection[(first+j*step)*c.Rows:]
		for i := range c.Rows {
			row[i] = c.Data[i*c.Stride+j]
		}
	}
}
