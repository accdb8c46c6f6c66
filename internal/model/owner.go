package model

import (
	"fmt"
	"strconv"
	"strings"
)

// OwnerMap gives, for each layer, the layer whose keys and values it attends
// to. A layer that owns its keys and values maps to itself.
type OwnerMap []int

// ContiguousOwners spreads owners over layers as the MLKV authors do: layer 0,
// then int((i+1) * (layers/owners)) for i < owners-1. Groups may differ by one
// layer: 12 layers and 5 owners give owners 0, 2, 4, 7, 9.
func ContiguousOwners(layers, owners int) (OwnerMap, error) {
	if owners < 1 || owners > layers {
		return nil, fmt.Errorf("kv_layers: expected 1 to %d (the number of layers), found %d", layers, owners)
	}
	m := make(OwnerMap, layers)
	ratio := float64(layers) / float64(owners)
	for i := 1; i < owners; i++ {
		first := int(float64(i) * ratio)
		for l := first; l < layers; l++ {
			m[l] = first
		}
	}
	return m, nil
}

// ParseOwnerMap reads a map in the form "0_0_2_2_4_4". Errors begin with the text;
// the field that it comes from is the caller's to name.
func ParseOwnerMap(s string) (OwnerMap, error) {
	parts := strings.Split(s, "_")
	m := make(OwnerMap, len(parts))
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			return nil, fmt.Errorf("%q: layer %d: expected a layer number, found %q", s, i, p)
		}
		m[i] = n
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	return m, nil
}

// String writes the map in the form that ParseOwnerMap reads.
func (m OwnerMap) String() string {
	parts := make([]string, len(m))
	for i, o := range m {
		parts[i] = strconv.Itoa(o)
	}
	return strings.Join(parts, "_")
}

// Validate reports the first layer whose owner lies ahead of it or owns
// nothing itself.
func (m OwnerMap) Validate() error {
	for i, o := range m {
		switch {
		case o < 0 || o > i:
			return fmt.Errorf("layer %d names owner %d; an owner is the layer itself or an earlier one (0 to %d)", i, o, i)
		case m[o] != o:
			return fmt.Errorf("layer %d names owner %d, which owns nothing itself (its own owner is %d)", i, o, m[o])
		}
	}
	return nil
}

// Owns reports whether layer i has key and value projections of its own.
func (m OwnerMap) Owns(i int) bool { return m[i] == i }

// Owners counts the layers that own keys and values.
func (m OwnerMap) Owners() int {
	n := 0
	for i := range m {
		if m.Owns(i) {
			n++
		}
	}
	return n
}

// List returns the owning layers, ascending.
func (m OwnerMap) List() []int {
	var out []int
	for i := range m {
		if m.Owns(i) {
			out = append(out, i)
		}
	}
	return out
}

// FormatOwners writes how many layers own keys and values, as "3", or as "2+3"
// where values, if not 0, are counted apart from keys.
func FormatOwners(keys, values int) string {
	if values == 0 {
		return strconv.Itoa(keys)
	}
	return fmt.Sprintf("%d+%d", keys, values)
}

// Members returns the layers that attend to the keys and values of owner,
// ascending; the owner itself comes first.
func (m OwnerMap) Members(owner int) []int {
	var out []int
	for i, o := range m {
		if o == owner {
			out = append(out, i)
		}
	}
	return out
}

// Contiguous reports whether the map is the one ContiguousOwners gives for its
// number of owners, the only maps that the authors' code can read.
func (m OwnerMap) Contiguous() bool {
	c, err := ContiguousOwners(len(m), m.Owners())
	return err == nil && c.String() == m.String()
}
