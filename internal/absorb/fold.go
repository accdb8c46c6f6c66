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
	if p.Layer < 0 || s.heads[s.dst.Owner[p.Layer]] == nil {
		return false
	}
	switch module, suffix := split(p); module {
	case model.Query, model.Key, model.Value:
		return true
	case model.AttentionOut:
		return suffix == "weight"
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
	case model.Key, model.Value:
		return s.shared(p.Layer, module == model.Key, suffix == "bias"), nil
	case model.Query, model.AttentionOut:
		x, err := w.Float32(p.Name)
		if err != nil {
			return nil, err
		}
		if module == model.Query {
			return s.foldQuery(p.Layer, x), nil
		}
		return s.foldOutput(p.Layer, x), nil
	}
	return nil, fmt.Errorf("absorb: %s is not changed", p.Name)
}

// shared is the key or value projection of an owner, its weight or its bias.
func (s *Solution) shared(owner int, key, bias bool) []float32 {
	var out []float32
	n := s.src.HiddenSize + 1
	for _, h := range s.heads[owner] {
		p := h.value
		if key {
			p = h.key
		}
		for c := range s.src.HeadSize() {
			row := p[c*n : (c+1)*n]
			if bias {
				row = row[n-1:]
			} else {
				row = row[:n-1]
			}
			for _, v := range row {
				out = append(out, float32(v))
			}
		}
	}
	return out
}

// maps finds the maps of a query head.
func (s *Solution) maps(layer, query int) maps {
	h := s.heads[s.dst.Owner[layer]][query*s.dst.KVHeads/s.dst.Heads]
	from, kv := s.src.Owner[layer], query*s.src.KVHeads/s.src.Heads
	for i, src := range h.sources {
		if src.layer == from && src.head == kv {
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
		m := s.maps(layer, q)
		turn := make([]float64, d*d) // [out, in] of this head's channels
		for p, a := range m.plane {
			i, j := p, p+r/2
			turn[i*d+i], turn[i*d+j] = real(a), imag(a)
			turn[j*d+i], turn[j*d+j] = -imag(a), real(a)
		}
		for i := range d - r {
			for j := range d - r {
				turn[(r+i)*d+r+j] = m.key[j*(d-r)+i]
			}
		}
		multiply(out[q*d*in:(q+1)*d*in], turn, x[q*d*in:(q+1)*d*in], d, d, in)
	})
	return out
}

// foldOutput puts the maps of values into an output projection [out, heads*d]:
// O (A v) = (O A) v.
func (s *Solution) foldOutput(layer int, x []float32) []float32 {
	d, width := s.src.HeadSize(), s.src.HiddenSize
	rows := len(x) / width
	out := make([]float32, len(x))
	blas.Parallel(s.src.Heads, func(q int) {
		m := s.maps(layer, q).value
		sum := make([]float64, d)
		for i := range rows {
			clear(sum)
			for k, v := range x[i*width+q*d : i*width+(q+1)*d] {
				for j, a := range m[k*d : (k+1)*d] {
					sum[j] += float64(v) * a
				}
			}
			for j, v := range sum {
				out[i*width+q*d+j] = float32(v)
			}
		}
	})
	return out
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
