package convert

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"mlkv/internal/absorb"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// plan is what a conversion does to a model, before any weight is read.
type plan struct {
	src, dst model.Config
	pool     pooling
	grow     growth
	add      int // neurons added to each MLP
	seed     int64
	// absorbed makes the attention of shared heads instead of pool.
	absorbed *absorb.Solution
}

// Shape is the architecture that a conversion gives, for which it needs no
// weights. Errors carry ui.ExitUsage.
func Shape(src model.Config, o Options) (model.Config, error) {
	// How heads come about does not change it, and nothing is written.
	o.Start, o.Output = "pooling", "none"
	if err := o.complete(); err != nil {
		return model.Config{}, err
	}
	p, err := newPlan(src, o)
	if err != nil {
		return model.Config{}, err
	}
	return p.dst, nil
}

// newPlan works out the target model. Errors carry ui.ExitUsage.
func newPlan(src model.Config, o Options) (*plan, error) {
	if src.KVIntermediateSize > 0 {
		return nil, ui.Usagef("%s: use_key_value_mlp: expected linear key and value projections, found two-layer MLPs, which cannot be pooled", o.Source)
	}
	p := &plan{src: src, dst: src, pool: poolings[o.Pooling], grow: growths[o.Grow], seed: o.Seed}
	var err error
	if p.dst.KVHeads, err = targetHeads(src, o.KVHeads); err != nil {
		return nil, err
	}
	if p.dst, err = withTargetOwners(p.dst, o); err != nil {
		return nil, err
	}
	p.dst.SharedKeyRotary = o.SharedKeyRotary
	if o.KeyValueMLP {
		if p.dst.KVIntermediateSize, err = kvIntermediateSize(src, p.dst); err != nil {
			return nil, err
		}
	} else if o.Grow != "none" {
		p.add = addedNeurons(src, p.dst)
		p.dst.IntermediateSize += p.add
	}
	if err := p.dst.Validate(); err != nil {
		return nil, ui.Usagef("%w", err)
	}
	if err := o.Format.Represents(p.dst); err != nil {
		return nil, err
	}
	if o.Start == "absorb" {
		return p, absorb.Check(p.src, p.dst)
	}
	return p, nil
}

// targetHeads is the number of key/value heads of the target. Each of its heads
// must stand for whole heads of the source.
func targetHeads(src model.Config, heads int) (int, error) {
	switch {
	case heads == 0:
		return src.KVHeads, nil
	case heads < 0 || heads > src.KVHeads:
		return 0, ui.Usagef("kv_heads: expected 1 to %d (the source's), found %d", src.KVHeads, heads)
	case src.KVHeads%heads != 0:
		return 0, ui.Usagef("kv_heads: %d does not divide the %d key/value heads of the source; choose one of %v",
			heads, src.KVHeads, model.Divisors(src.KVHeads))
	}
	return heads, nil
}

// withTargetOwners gives a model with the source's owner maps those of the target.
func withTargetOwners(c model.Config, o Options) (model.Config, error) {
	both := ownerChoice{what: "keys and values", field: "layer_map", layerMap: o.LayerMap, kvLayers: o.KVLayers}
	if o.ValueLayerMap == "" && c.ValueOwner == nil {
		m, err := both.owners(c.Owner)
		return c.WithOwners(m, m), err
	}
	ofKeys, ofValues := both, both
	if o.ValueLayerMap != "" {
		ofValues = ownerChoice{field: "value_layer_map", layerMap: o.ValueLayerMap}
	}
	ofKeys.what, ofValues.what = "keys", "values"
	keys, err := ofKeys.owners(c.Owner)
	if err != nil {
		return c, err
	}
	values, err := ofValues.owners(c.ValueOwners())
	return c.WithOwners(keys, values), err
}

// ownerChoice is what the options say of the owners of keys, of values or of both.
type ownerChoice struct {
	what     string // that they own
	field    string // that layerMap comes from
	layerMap string
	kvLayers int // instead of layerMap; 0 keeps the source's
}

// owners is the owner map of the target where src is that of the source. It may
// only put groups of the source together: an owner must own in the source, and
// layers that share there must share in the target.
func (o ownerChoice) owners(src model.OwnerMap) (model.OwnerMap, error) {
	m := src
	var err error
	field := "kv_layers"
	switch {
	case o.layerMap != "":
		field = o.field
		if m, err = model.ParseOwnerMap(o.layerMap); err != nil {
			err = fmt.Errorf("%s: %w", field, err)
		}
	case o.kvLayers > src.Owners():
		err = fmt.Errorf("kv_layers: expected 1 to %d (the layers of the source that own %s), found %d", src.Owners(), o.what, o.kvLayers)
	case o.kvLayers == src.Owners():
	case o.kvLayers != 0:
		m, err = model.ContiguousOwners(len(src), o.kvLayers)
	}
	if err != nil {
		return nil, ui.Usagef("%w", err)
	}
	if len(m) != len(src) {
		return nil, ui.Usagef("%s: expected %d layers as in the source, found %d in %q", field, len(src), len(m), o.layerMap)
	}
	for l, owner := range m {
		switch {
		case !src.Owns(owner):
			return nil, ui.Usagef("%s: layer %d would attend to layer %d, which owns no %s in the source (its owner map is %s, the target's %s)",
				field, l, owner, o.what, src, m)
		case m[src[l]] != owner:
			return nil, ui.Usagef("%s: layers %d and %d share %s in the source and would not in the target (owner map %s, the target's %s)",
				field, src[l], l, o.what, src, m)
		}
	}
	return slices.Clone(m), nil
}

// lostParameters counts the weights and biases of the key and value heads that
// the target lacks.
func lostParameters(src, dst model.Config) int {
	heads := src.KVHeads*projections(src) - dst.KVHeads*projections(dst)
	return heads * (src.HiddenSize*src.HeadSize() + src.HeadSize())
}

// projections counts those of keys and of values.
func projections(c model.Config) int { return c.Owner.Owners() + c.ValueOwners().Owners() }

// addedNeurons is the number of neurons that each MLP takes up for the lost
// parameters, as the MLKV authors' convert_to_mlkv.py computes it: Python's
// round (half to even) of the parameters a layer over the hidden size, halved.
func addedNeurons(src, dst model.Config) int {
	layer := lostParameters(src, dst) / src.Layers
	return int(math.RoundToEven(float64(layer)/float64(src.HiddenSize))) / 2
}

// kvIntermediateSize is the width of a key or value MLP that brings the
// parameters of a model back to those of the source, as the MLKV authors'
// convert_to_mlkv.py computes it.
func kvIntermediateSize(src, dst model.Config) (int, error) {
	width := dst.KVSize()
	each := lostParameters(src, dst)/projections(dst) + width*dst.HiddenSize
	size := int(math.RoundToEven(float64(each) / float64(dst.HiddenSize+width)))
	if size < width {
		return 0, ui.Usagef("key_value_mlp: the lost parameters allow a width of %d, less than the %d channels of the keys that it must hold; choose fewer kv_heads or kv_layers",
			size, width)
	}
	return size, nil
}

// group is what one key/value head of the target is pooled from.
type group struct {
	layers []int // owners in the source, ascending; the first is the target's owner
	served []int // for each of layers, how many of the target's members attend to it in the source
	head   int   // first key/value head in the source
	count  int   // number of heads from there
}

// single reports whether the group is one head of one layer.
func (g group) single() bool { return len(g.layers) == 1 && g.count == 1 }

// group returns what a head of an owner is pooled from. source is the name of its
// projection in a layer.
func (p *plan) group(source string, owner, head int) group {
	from, to := p.src.Owner, p.dst.Owner
	if strings.HasPrefix(source, model.Value) {
		from, to = p.src.ValueOwners(), p.dst.ValueOwners()
	}
	g := group{count: p.src.KVHeads / p.dst.KVHeads}
	g.head = head * g.count
	for _, l := range to.Members(owner) {
		if from.Owns(l) {
			g.layers = append(g.layers, l)
			g.served = append(g.served, len(from.Members(l)))
		}
	}
	return g
}

// note tells what a user may not expect of a conversion that is otherwise fine.
func (p *plan) note() string {
	if p.src.Owner.Owners() < p.src.Layers && p.src.SharedKeyRotary != p.dst.SharedKeyRotary {
		return fmt.Sprintf("note: the source shares keys %s rotary, the result %s", p.src.SharedKeyRotary, p.dst.SharedKeyRotary)
	}
	return ""
}
