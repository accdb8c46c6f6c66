package absorb

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
	Refit int      `json:"refit,omitempty"` // how often its output was fitted anew
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
