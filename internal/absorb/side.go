package absorb

import "mlkv/internal/model"

// side is one of the two that layers share, keys or values. Their fits do not
// depend on each other: keys change the key and query projections, values the
// value and output projections.
type side struct {
	module   string         // that makes it: model.Key or model.Value
	from, to model.OwnerMap // of the unconverted and of the converted model
	kvHeads  int            // of an owner in the converted model
	group    int            // heads of a layer that each of those stands for
	members  int            // query heads of a layer that attend to one head of the unconverted model
	headSize int
	rotary   int // channels of a head that rotary turns; none of values
}

func keySide(src, dst model.Config) side {
	return newSide(model.Key, src, dst, src.Owner, dst.Owner, src.RotaryDims())
}

func valueSide(src, dst model.Config) side {
	return newSide(model.Value, src, dst, src.ValueOwners(), dst.ValueOwners(), 0)
}

func newSide(module string, src, dst model.Config, from, to model.OwnerMap, rotary int) side {
	return side{
		module: module, from: from, to: to, kvHeads: dst.KVHeads, group: src.KVHeads / dst.KVHeads,
		members: src.Heads / src.KVHeads, headSize: src.HeadSize(), rotary: rotary,
	}
}

// source is a head of the unconverted model that a shared head stands for.
// weight is how many query heads attend to it.
type source struct{ layer, head, weight int }

// sharedHead is a head of the converted model.
type sharedHead struct {
	owner, index int
	sources      []source
}

// layout lists the shared heads of an owner.
func (s side) layout(owner int) []sharedHead {
	heads := make([]sharedHead, s.kvHeads)
	for i := range heads {
		heads[i] = sharedHead{owner: owner, index: i}
		for _, l := range s.layers(owner) {
			weight := len(s.from.Members(l)) * s.members
			for h := i * s.group; h < (i+1)*s.group; h++ {
				heads[i].sources = append(heads[i].sources, source{l, h, weight})
			}
		}
	}
	return heads
}

// layers lists those that own heads in the unconverted model and whose members
// attend to owner in the converted one, ascending.
func (s side) layers(owner int) []int {
	var out []int
	for _, l := range s.to.Members(owner) {
		if s.from.Owns(l) {
			out = append(out, l)
		}
	}
	return out
}

// sharing lists the owners whose heads stand for several, ascending; those of
// the others stay as they are.
func (s side) sharing() []int {
	var out []int
	for _, owner := range s.to.List() {
		if s.group > 1 || len(s.layers(owner)) > 1 {
			out = append(out, owner)
		}
	}
	return out
}
