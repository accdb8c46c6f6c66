package cuda

import "slices"

// Recompute says which results of the forward pass are not kept for the
// backward pass but computed again there.
type Recompute string

const (
	RecomputeNone Recompute = "none"
	// RecomputeMLP drops what lies inside a layer's MLP.
	RecomputeMLP Recompute = "mlp"
	// RecomputeLayer drops all of a layer but its input, and keys and values
	// that later layers read.
	RecomputeLayer Recompute = "layer"
)

// recompute copies operations of the forward pass to where the backward pass
// first needs results that are dropped. It comes after fuse.
func recompute(p *program, mode Recompute) {
	if mode == RecomputeNone || mode == "" {
		return
	}
	r := &recomputer{p: p, forward: map[*matrix]*operation{}, done: map[*operation]bool{}, copies: map[*matrix]*matrix{}}
	for _, o := range p.ops {
		if !o.backward {
			for _, m := range o.out {
				r.forward[m] = o
			}
		}
	}
	kept := r.kept(mode)
	var ops []*operation
	for _, o := range p.ops {
		if o.backward {
			for i, m := range o.in {
				o.in[i] = r.again(m, kept, &ops)
			}
		}
		ops = append(ops, o)
	}
	p.ops = ops
}

type recomputer struct {
	p       *program
	forward map[*matrix]*operation // what makes a result of the forward pass
	done    map[*operation]bool    // whether it was copied
	copies  map[*matrix]*matrix
}

// maker is the operation of the forward pass that makes m, or what m is a part
// of; nil for what the forward pass does not make.
func (r *recomputer) maker(m *matrix) *operation {
	for ; m != nil; m = m.of {
		if o := r.forward[m]; o != nil {
			return o
		}
	}
	return nil
}

// kept reports which results of the forward pass stay, with all that shares
// their memory.
func (r *recomputer) kept(mode Recompute) func(m *matrix) bool {
	stay := map[*matrix]bool{}
	for _, u := range r.p.ops {
		for _, m := range u.in {
			o := r.maker(m)
			if o == nil {
				continue
			}
			if o.layer < 0 || r.crosses(m, o.layer) || mode == RecomputeMLP && !r.inMLP(m, o) {
				root, _ := m.root()
				stay[root] = true
			}
		}
	}
	return func(m *matrix) bool {
		root, _ := m.root()
		return r.maker(m) == nil || stay[root]
	}
}

// crosses reports whether a later layer or the head reads m.
func (r *recomputer) crosses(m *matrix, layer int) bool {
	return slices.ContainsFunc(r.p.users(m), func(u *operation) bool {
		switch u.kind.(type) {
		case head, distill:
			return true
		}
		return !u.backward && u.layer != layer
	})
}

// inMLP reports whether m is gelu's operand or result.
func (r *recomputer) inMLP(m *matrix, o *operation) bool {
	if _, ok := o.kind.(gelu); ok {
		return true
	}
	return slices.ContainsFunc(r.p.users(m), func(u *operation) bool {
		_, ok := u.kind.(gelu)
		return ok
	})
}

// again is m, or its copy that operations appended to ops compute.
func (r *recomputer) again(m *matrix, kept func(*matrix) bool, ops *[]*operation) *matrix {
	if kept(m) {
		return m
	}
	if o := r.maker(m); !r.done[o] {
		r.done[o] = true
		c := &operation{kind: o.kind, layer: o.layer, backward: true}
		for _, in := range o.in {
			c.in = append(c.in, r.again(in, kept, ops))
		}
		for _, out := range o.out {
			c.out = append(c.out, r.copy(out))
		}
		*ops = append(*ops, c)
	}
	return r.copy(m)
}

// copy is m's own copy, in the copy of what m is a part of.
func (r *recomputer) copy(m *matrix) *matrix {
	if m == nil {
		return nil
	}
	if c := r.copies[m]; c != nil {
		return c
	}
	c := *m
	r.copies[m] = &c
	c.of = r.copy(m.of)
	return &c
}
