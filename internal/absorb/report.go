package absorb

import (
	"slices"

	"mlkv/internal/model"
)

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
// query heads and calibration tokens, that a shared head explains. Where keys
// and values have owners of their own, a head of one tells nothing of the other.
type HeadReport struct {
	Layer   int      `json:"layer"`
	Head    int      `json:"head"`
	Sources int      `json:"source_heads"`
	Key     *float64 `json:"key_variance_explained,omitempty"`
	// KeyRotary is of the channels that rotary turns, where there are any.
	KeyRotary float64  `json:"key_rotary_variance_explained,omitempty"`
	Value     *float64 `json:"value_variance_explained,omitempty"`
}

// headReports tells of an owner's heads, of those of keys and of values together
// where they stand for the same.
func headReports(keys, values []head) []HeadReport {
	var out []HeadReport
	for i := range max(len(keys), len(values)) {
		if i < len(keys) {
			out = append(out, newHeadReport(keys[i]))
			k := &out[len(out)-1]
			k.Key = new(keys[i].share())
			if keys[i].maps[0].plane != nil {
				k.KeyRotary = keys[i].turned.share()
			}
		}
		if i < len(values) {
			if i >= len(keys) || !slices.Equal(keys[i].sources, values[i].sources) {
				out = append(out, newHeadReport(values[i]))
			}
			out[len(out)-1].Value = new(values[i].share())
		}
	}
	return out
}

func newHeadReport(h head) HeadReport {
	return HeadReport{Layer: h.owner, Head: h.index, Sources: len(h.sources)}
}

// share is the part of the variance of all its sources' channels that a head
// explains.
func (h head) share() float64 { return h.rest.plus(h.turned).share() }

// LayerReport tells what a layer's projections took up.
type LayerReport struct {
	Layer int `json:"layer"`
	Owner int `json:"owner"`
	// ValueOwner is that of values, and Owner that of keys, in a model that tells
	// them apart.
	ValueOwner *int     `json:"value_owner,omitempty"`
	Into       []string `json:"folded_into"` // modules
	Heads      int      `json:"query_heads"`
	Refit      int      `json:"refit,omitempty"` // how often its output was fitted anew
}

func newLayerReport(dst model.Config, layer int) LayerReport {
	r := LayerReport{Layer: layer, Owner: dst.Owner[layer]}
	if dst.ValueOwner != nil {
		r.ValueOwner = new(dst.ValueOwner[layer])
	}
	return r
}

// layerReports tells of the layers whose projections took up maps.
func (s *Solution) layerReports() []LayerReport {
	var out []LayerReport
	for l := range s.dst.Layers {
		r := newLayerReport(s.dst, l)
		r.Heads = s.dst.Heads
		if s.keys.shared(l) {
			r.Into = append(r.Into, model.Query)
		}
		if s.values.shared(l) {
			r.Into = append(r.Into, model.AttentionOut)
		}
		if r.Into != nil {
			out = append(out, r)
		}
	}
	return out
}

// tally compares the squares that a fit explains with those there are.
type tally struct{ explained, total, centred float64 }

func (t tally) plus(u tally) tally {
	return tally{t.explained + u.explained, t.total + u.total, t.centred + u.centred}
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
