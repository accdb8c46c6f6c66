package cuda

import (
	"slices"

	"mlkv/internal/model"
)

// fuse joins operations where one kernel does the work of several. Every rule
// looks for one pattern; together they turn the graph of a decoder layer and of
// its derivative into the series of kernels that docs/performance.md counts.
//
// Parameters that beside allows come to lie side by side.
func fuse(p *program, cfg model.Config, beside func(params []string) bool) {
	p.flattenSums()
	p.joinNorms()
	p.joinNormGradients()
	p.joinProjections(cfg)
	p.shareKeyGradients()
	p.joinProjectionGradients()
	p.turnGradientsInAttention()
	p.sumBiasGradientsInAttention()
	p.addResiduals()
	p.joinOutputs(beside)
	p.moveBiasIntoGelu()
	p.sumBiasGradientInGelu()
	p.sumBiasGradientInNorms()
	p.workInPlace()
	p.joinRotaries()
}

// only is the operation that reads m, nil if there are several or none.
func (p *program) only(m *matrix) *operation {
	if users := p.users(m); len(users) == 1 {
		return users[0]
	}
	return nil
}

// at is where an operation stands in the list.
func (p *program) at(o *operation) int { return slices.Index(p.ops, o) }

// each calls f with every operation of kind K that is still there.
func each[K kind](p *program, f func(o *operation, k K)) {
	for _, o := range slices.Clone(p.ops) {
		if k, ok := o.kind.(K); ok && slices.Contains(p.ops, o) {
			f(o, k)
		}
	}
}

// flattenSums makes one sum of a tree of sums.
func (p *program) flattenSums() {
	each(p, func(o *operation, _ sum) {
		var terms []*matrix
		for _, in := range o.in {
			inner := p.maker(in)
			if inner != nil && in.role == transient && p.only(in) == o {
				if _, ok := inner.kind.(sum); ok {
					terms = append(terms, inner.in...)
					p.remove(inner)
					continue
				}
			}
			terms = append(terms, in)
		}
		o.in = terms
	})
}

// joinNorms normalises a matrix once where two norms read it: those of a
// parallel residual. The second one's y is then made earlier than before.
func (p *program) joinNorms() {
	each(p, func(o *operation, k norms) {
		if len(o.in) != 3 {
			return
		}
		for _, other := range p.users(o.in[0]) {
			if other == o || other.kind != kind(k) || len(other.in) != 3 {
				continue
			}
			o.in = append(o.in, other.in[1:]...)
			o.out = []*matrix{o.out[0], other.out[0], o.out[1]}
			p.replace(other.out[1], o.out[2])
			p.remove(other)
			return
		}
	})
}

// joinNormGradients adds up what flows into the input of one or two norms in
// the kernel of their derivative.
func (p *program) joinNormGradients() {
	each(p, func(o *operation, _ sum) {
		var grads []*operation
		var rest []*matrix
		for _, in := range o.in {
			g := p.maker(in)
			if g != nil && p.only(in) == o {
				if _, ok := g.kind.(normsGrad); ok && len(grads) < 2 && (len(grads) == 0 || g.in[1] == grads[0].in[1]) {
					grads = append(grads, g)
					continue
				}
			}
			rest = append(rest, in)
		}
		if len(grads) == 0 || len(rest) > 1 {
			return
		}
		k := grads[0].kind.(normsGrad)
		k.add, k.count = len(rest) == 1, len(grads)
		joined := &operation{kind: k, in: slices.Clone(grads[0].in[:2]), out: []*matrix{o.out[0]}, layer: o.layer, backward: true}
		for _, g := range grads {
			joined.in = append(joined.in, g.in[2:]...)
			joined.out = append(joined.out, g.out[1:]...)
		}
		joined.in = append(joined.in, rest...)
		p.ops[p.at(o)] = joined
		p.remove(grads...)
	})
}

// addResiduals adds the terms of a sum where the products among them write
// their results: x + attention + mlp needs no pass of its own.
func (p *program) addResiduals() {
	each(p, func(o *operation, _ sum) {
		var products []*operation
		var rest []*matrix
		for _, in := range o.in {
			g := p.maker(in)
			if g != nil && p.only(in) == o && in.of == nil && in.dense() {
				if k, ok := g.kind.(product); ok && !k.add {
					products = append(products, g)
					continue
				}
			}
			rest = append(rest, in)
		}
		if len(products) == 0 || len(rest) > 1 {
			return
		}
		slices.SortFunc(products, func(a, b *operation) int { return p.at(a) - p.at(b) })
		if len(rest) == 0 {
			rest, products = []*matrix{products[0].out[0]}, products[1:]
		}
		if maker := p.maker(rest[0]); maker != nil && p.at(maker) > p.at(products[0]) {
			return
		}
		acc := rest[0]
		for _, g := range products {
			k := g.kind.(product)
			k.add = true
			g.kind = k
			g.in = slices.Insert(g.in, 2, acc)
			acc = g.out[0]
		}
		end := products[len(products)-1]
		end.out[0] = o.out[0]
		p.remove(o)
	})
}

// moveBiasIntoGelu lets gelu and its derivative add the bias of the linear map
// before them: they read every element anyway, and the product is faster
// without.
func (p *program) moveBiasIntoGelu() {
	each(p, func(o *operation, k product) {
		if !k.bias || k.add {
			return
		}
		users := p.users(o.out[0])
		for _, u := range users {
			switch u.kind.(type) {
			case gelu, geluGrad:
			default:
				return
			}
		}
		if len(users) == 0 {
			return
		}
		bias := asMaster(o.in[2])
		k.bias = false
		o.kind, o.in = k, o.in[:2]
		for _, u := range users {
			u.in = slices.Insert(u.in, 1, bias)
			if _, ok := u.kind.(gelu); ok {
				u.kind = gelu{bias: true}
			} else {
				u.kind = geluGrad{bias: true}
			}
		}
	})
}

// sumBiasGradientInGelu takes the gradient of that bias where gelu's derivative
// is made.
func (p *program) sumBiasGradientInGelu() {
	each(p, func(o *operation, k geluGrad) {
		if !k.bias {
			return
		}
		for _, u := range p.users(o.out[0]) {
			if _, ok := u.kind.(columnSum); ok && u.out[0].role == gradient {
				o.out = append(o.out, u.out[0])
				p.remove(u)
				return
			}
		}
		// Without a gradient of its own, the bias is added all the same.
	})
}

// sumBiasGradientInNorms takes the gradient of the biases that were added to the
// residual, of one linear map or two, where that gradient is read anyway.
func (p *program) sumBiasGradientInNorms() {
	each(p, func(o *operation, k normsGrad) {
		if !k.add {
			return
		}
		for _, u := range p.users(o.in[len(o.in)-1]) {
			if _, ok := u.kind.(columnSum); !ok || u.out[0].role != gradient {
				continue
			}
			o.out = append(o.out, u.out[0])
			p.remove(u)
			if twin := p.only(u.out[0]); twin != nil && twin.kind == kind(duplicate{}) {
				o.out = append(o.out, twin.out[0])
				p.remove(twin)
			}
			return
		}
	})
}

// workInPlace lets elementwise operations overwrite an operand that nothing
// else reads any more.
func (p *program) workInPlace() {
	each(p, func(o *operation, _ rotary) { p.overwrite(o, 0) })
	each(p, func(o *operation, _ geluGrad) { p.overwrite(o, len(o.in)-1) })
}

// overwrite makes the first result of o where its operand i lies. A result that
// is a part of another matrix takes the operand with it.
func (p *program) overwrite(o *operation, i int) {
	x, y := o.in[i], o.out[0]
	if p.only(x) != o || x.role != transient || y.role != transient || x.size() != y.size() {
		return
	}
	switch {
	case y.of == nil:
		y.of, y.offset, y.stride = x, 0, x.stride
	case x.of == nil && p.placeable(x):
		x.of, x.offset, x.stride = y, 0, y.stride
	}
}
