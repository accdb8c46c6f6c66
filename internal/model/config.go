// Package model says what a model is: the GPT-NeoX architecture with
// multi-layer key/value sharing (MLKV, arXiv 2406.09297), which layer owns the
// keys and values that each layer attends to, and the names, shapes and counts
// that follow. It does no arithmetic on weights.
package model

import (
	"fmt"
	"slices"
)

// KeyRotary says whether a layer that borrows keys sees them with or without
// the rotary embedding of its owner.
type KeyRotary string

const (
	// RotaryAfter shares keys after rotary: every layer scores its rotated
	// queries against rotated keys.
	RotaryAfter KeyRotary = "after"
	// RotaryBefore shares keys before rotary, as the code of the MLKV authors
	// does: the owner sees its rotated keys, borrowers the unrotated ones.
	RotaryBefore KeyRotary = "before"
)

// Config is a GPT-NeoX decoder whose layers may share keys and values. Sizes
// are counts of elements; the zero value is not a valid model.
type Config struct {
	VocabSize        int
	HiddenSize       int
	Layers           int
	Heads            int
	IntermediateSize int
	// MaxPositions is the longest sequence that the model was made for.
	MaxPositions int

	// RotaryPct is the share of each head that rotary turns, from 0 to 1.
	RotaryPct float64
	// RotaryBase is the base of the rotary frequencies, 10000 in Pythia.
	RotaryBase   float64
	LayerNormEps float64
	// ParallelResidual adds attention and MLP to the same residual
	// (Pythia); otherwise the MLP reads the residual after attention.
	ParallelResidual bool
	// TiedEmbeddings makes the input embedding serve as output projection.
	TiedEmbeddings bool
	// InitializerRange is the standard deviation of a fresh weight.
	InitializerRange float64

	// KVHeads is the number of key/value heads in a layer that owns any.
	// Query heads share them in contiguous groups of Heads/KVHeads.
	KVHeads int
	// Owner maps each layer to the layer whose keys and values it attends
	// to: Owner[i] <= i and Owner[Owner[i]] == Owner[i].
	Owner OwnerMap
	// ValueOwner, if not nil, is another map for values; Owner is that of keys
	// then.
	ValueOwner OwnerMap
	// SharedKeyRotary says where keys are shared; see KeyRotary.
	SharedKeyRotary KeyRotary
	// KVIntermediateSize, if positive, makes each key and value projection a
	// two-layer MLP of that width (the authors' use_key_value_mlp form).
	KVIntermediateSize int

	// BOS and EOS are the ids of the tokens that begin and end a document.
	BOS, EOS int
}

// HeadSize is the number of channels of one attention head.
func (c Config) HeadSize() int { return c.HiddenSize / c.Heads }

// RotaryDims is the number of leading channels of a head that rotary turns,
// int(head_size * rotary_pct) as transformers computes it.
func (c Config) RotaryDims() int { return int(float64(c.HeadSize()) * c.RotaryPct) }

// KVSize is the width of one layer's keys, and of its values.
func (c Config) KVSize() int { return c.KVHeads * c.HeadSize() }

// ValueOwners maps each layer to the layer whose values it attends to.
func (c Config) ValueOwners() OwnerMap {
	if c.ValueOwner != nil {
		return c.ValueOwner
	}
	return c.Owner
}

// WithOwners gives keys and values their maps; those of values may be nil or the
// same.
func (c Config) WithOwners(keys, values OwnerMap) Config {
	c.Owner, c.ValueOwner = keys, values
	if slices.Equal(keys, values) {
		c.ValueOwner = nil
	}
	return c
}

// Shared reports whether the model departs from plain multi-head attention:
// fewer key/value heads than query heads, fewer owners than layers, or
// key/value MLPs.
func (c Config) Shared() bool {
	return c.KVHeads != c.Heads || c.Owner.Owners() != c.Layers || c.ValueOwners().Owners() != c.Layers || c.KVIntermediateSize > 0
}

// Validate reports the first field that no model can have. Field names in the
// message are those of config.json.
func (c Config) Validate() error {
	for _, f := range []struct {
		name string
		v    int
	}{
		{"vocab_size", c.VocabSize}, {"hidden_size", c.HiddenSize}, {"num_hidden_layers", c.Layers},
		{"num_attention_heads", c.Heads}, {"intermediate_size", c.IntermediateSize},
		{"max_position_embeddings", c.MaxPositions}, {"num_key_value_heads", c.KVHeads},
	} {
		if f.v <= 0 {
			return fmt.Errorf("%s: expected a positive number, found %d", f.name, f.v)
		}
	}
	switch {
	case c.HiddenSize%c.Heads != 0:
		return fmt.Errorf("hidden_size: %d does not divide into num_attention_heads %d", c.HiddenSize, c.Heads)
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_key_value_heads: %d does not divide num_attention_heads %d; choose one of %v",
			c.KVHeads, c.Heads, Divisors(c.Heads))
	case !(c.RotaryPct >= 0 && c.RotaryPct <= 1):
		return fmt.Errorf("rotary_pct: expected 0 to 1, found %g", c.RotaryPct)
	case c.RotaryDims()%2 != 0:
		return fmt.Errorf("rotary_pct: %g of head size %d is %d channels; rotary needs an even number",
			c.RotaryPct, c.HeadSize(), c.RotaryDims())
	case !(c.RotaryBase > 0):
		return fmt.Errorf("rotary_emb_base: expected a positive number, found %g", c.RotaryBase)
	case !(c.LayerNormEps > 0):
		return fmt.Errorf("layer_norm_eps: expected a positive number, found %g", c.LayerNormEps)
	case c.KVIntermediateSize < 0:
		return fmt.Errorf("kv_intermediate_size: expected 0 or more, found %d", c.KVIntermediateSize)
	case c.SharedKeyRotary != RotaryAfter && c.SharedKeyRotary != RotaryBefore:
		return fmt.Errorf("shared_key_rotary: expected %q or %q, found %q", RotaryAfter, RotaryBefore, c.SharedKeyRotary)
	}
	for _, m := range []struct {
		name   string
		owners OwnerMap
	}{{"layer_map", c.Owner}, {"value_layer_map", c.ValueOwners()}} {
		if len(m.owners) != c.Layers {
			return fmt.Errorf("%s: expected %d layers, found %d", m.name, c.Layers, len(m.owners))
		}
		if err := m.owners.Validate(); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// Divisors lists the numbers that divide n, ascending.
func Divisors(n int) []int {
	var out []int
	for d := 1; d <= n; d++ {
		if n%d == 0 {
			out = append(out, d)
		}
	}
	return out
}
