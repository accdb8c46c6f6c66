package absorb

import (
	"fmt"
	"strings"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// Changes reports whether the solution makes a parameter; its others are the
// source's.
func (s *Solution) Changes(p model.Param) bool {
	if p.Layer < 0 {
		return false
	}
	switch module, suffix := split(p); module {
	case model.Query, model.Key:
		return s.keys.shared(p.Layer)
	case model.Value:
		return s.values.shared(p.Layer)
	case model.AttentionOut:
		return s.outputs[p.Layer] != nil || s.values.shared(p.Layer) && suffix == "weight"
	}
	return false
}

// split takes a parameter's name apart into module and suffix.
func split(p model.Param) (module, suffix string) {
	name := strings.TrimPrefix(p.Name, model.LayerName(p.Layer, ""))
	dot := strings.LastIndexByte(name, '.')
	return name[:dot], name[dot+1:]
}

// Make makes a parameter that the solution changes; w holds the source's.
func (s *Solution) Make(w engine.Weights, p model.Param) ([]float32, error) {
	module, suffix := split(p)
	switch module {
	case model.Key:
		return s.keys.projection(p.Layer, suffix == "bias"), nil
	case model.Value:
		return s.values.projection(p.Layer, suffix == "bias"), nil
	case model.Query:
		x, err := w.Float32(p.Name)
		if err != nil {
			return nil, err
		}
		return s.foldQuery(p.Layer, x), nil
	case model.AttentionOut:
		n := s.src.HiddenSize + 1
		out, ok := s.outputs[p.Layer]
		if !ok {
			x, err := projection(w, model.LayerName(p.Layer, module), n-1)
			if err != nil {
				return nil, err
			}
			s.foldOutput(p.Layer, x)
			out = x.Data
		}
		return part(out, n, suffix == "bias", nil), nil
	}
	return nil, fmt.Errorf("absorb: %s is not changed", p.Name)
}

// part appends the weight or the bias of a projection [out, n], the bias last
// in its rows.
func part(projection []float64, n int, bias bool, to []float32) []float32 {
	for at := 0; at < len(projection); at += n {
		row := projection[at : at+n]
		if bias {
			row = row[n-1:]
		} else {
			row = row[:n-1]
		}
		for _, v := range row {
			to = append(to, float32(v))
		}
	}
	return to
}

// projection is that of an owner's heads, its weight or its bias.
func (s sharedSide) projection(owner int, bias bool) []float32 {
	var out []float32
	for _, h := range s.heads[owner] {
		out = part(h.projection, len(h.projection)/s.headSize, bias, out)
	}
	return out
}

// back finds the map of a query head.
func (s sharedSide) back(layer, query int) backMap {
	kv := query / s.members
	h := s.heads[s.to[layer]][kv/s.group]
	for i, src := range h.sources {
		if src.layer == s.from[layer] && src.head == kv {
			return h.maps[i]
		}
	}
	panic(fmt.Sprintf("absorb: query head %d of layer %d has no source in shared head %d of layer %d", query, layer, h.index, h.owner))
}

// foldQuery puts the maps of keys into a query projection [heads*d, in], or its
// bias [heads*d]: q . (A k) = (A' q) . k, and on a plane of rotary, as complex
// numbers, Re(conj(q) a k) = Re(conj(conj(a) q) k).
func (s *Solution) foldQuery(layer int, x []float32) []float32 {
	d, r := s.src.HeadSize(), s.src.RotaryDims()
	in := len(x) / s.src.HiddenSize
	out := make([]float32, len(x))
	blas.Parallel(s.src.Heads, func(q int) {
		m := s.keys.back(layer, q)
		turn := make([]float64, d*d) // [out, in] of this head's channels
		for p, a := range m.plane {
			i, j := p, p+r/2
			turn[i*d+i], turn[i*d+j] = real(a), imag(a)
			turn[j*d+i], turn[j*d+j] = -imag(a), real(a)
		}
		for i := range d - r {
			for j := range d - r {
				turn[(r+i)*d+r+j] = m.rest[j*(d-r)+i]
			}
		}
		multiply(out[q*d*in:(q+1)*d*in], turn, x[q*d*in:(q+1)*d*in], d, d, in)
	})
	return out
}

// foldOutput puts the maps of values into an output projection [H, H+1] in
// place: O (A v) = (O A) v.
func (s *Solution) foldOutput(layer int, x blas.Matrix[float64]) {
	d := s.src.HeadSize()
	blas.Parallel(s.src.Heads, func(q int) {
		o := blas.Matrix[float64]{Rows: x.Rows, Cols: d, Stride: x.Stride, Data: x.Data[q*d:]}
		folded := blas.Dense(x.Rows, d, make([]float64, x.Rows*d))
		blas.Serial(blas.AsIs, blas.AsIs, 1, o, blas.Dense(d, d, s.values.back(layer, q).rest), 0, folded)
		for i := range x.Rows {
			copy(o.Data[i*o.Stride:i*o.Stride+d], folded.Data[i*d:])
		}
	})
}

// multiply is c = a b for a [rows, inner] and b [inner, cols], summed in
// float64.
func multiply(c []float32, a []float64, b []float32, rows, inner, cols int) {
	sum := make([]float64, cols)
	for i := range rows {
		clear(sum)
		for k, f := range a[i*inner : (i+1)*inner] {
			if f == 0 {
				continue
			}
			for j, v := range b[k*cols : (k+1)*cols] {
				sum[j] += f * float64(v)
			}
		}
		for j, v := range sum {
			c[i*cols+j] = float32(v)
		}
	}
}
