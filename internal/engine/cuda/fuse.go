package cuda

import (
	"slices"

	"mlkv/internal/model"
)

// fuse joins operations where one kernel does the work of several. Every rule
// looks for one pattern; together they turn the graph of a decoder layer and of
// its derivative into the series of kernels that docs/performance.md counts.
func fuse(p *program, cfg model.Config) {
	p.flattenSums()
	p.joinNorms()
	p.joinNormGradients()
	p.joinProjections(cfg)
	p.shareKeyGradients()
	p.joinProjectionGradients()
	p.addResiduals()
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

// joinProjections makes one product of the linear maps of one input whose
// results rotary and attention read: query, key and value, in this order. Their
// weights lie one after another, their results side by side.
func (p *program) joinProjections(cfg model.Config) {
	position := map[string]int{}
	for i, param := range cfg.Params() {
		position[param.Name] = i
	}
	each(p, func(o *operation, k product) {
		if !isLinear(o) || !p.strided(o.out[0]) {
			return
		}
		var group []*operation
		for _, other := range p.users(o.in[0]) {
			if other.kind == kind(k) && isLinear(other) && p.strided(other.out[0]) {
				group = append(group, other)
			}
		}
		if len(group) < 2 {
			return
		}
		slices.SortFunc(group, func(a, b *operation) int { return position[a.in[1].param()] - position[b.in[1].param()] })
		operands := make([][]*matrix, len(o.in)) // x, weights, biases
		var results []*matrix
		for _, g := range group {
			for i, in := range g.in {
				operands[i] = append(operands[i], in)
			}
			results = append(results, g.out[0])
		}
		joined := &operation{kind: k, in: []*matrix{o.in[0]}, out: []*matrix{sideBySide(results)}, layer: o.layer}
		for _, list := range operands[1:] {
			joined.in = append(joined.in, p.joinParams(list))
		}
		p.ops[slices.IndexFunc(p.ops, func(x *operation) bool { return slices.Contains(group, x) })] = joined
		p.remove(group...)
	})
}

// isLinear reports a linear map with weights of one parameter.
func isLinear(o *operation) bool {
	return o.kind == kind(product{transB: true, bias: len(o.in) == 3}) && o.in[1].role == weight && len(o.in[1].params) == 1
}

// strided reports whether all that read m take matrices with a stride.
func (p *program) strided(m *matrix) bool {
	for _, o := range p.users(m) {
		switch o.kind.(type) {
		case rotary, attention, attentionGrad:
		default:
			return false
		}
	}
	return m.role == transient
}

// sideBySide makes the matrices columns of a new one.
func sideBySide(list []*matrix) *matrix {
	whole := newMatrix("", list[0].rows, 0, list[0].elem)
	for _, m := range list {
		whole.name += m.name
		m.of, m.offset = whole, whole.cols
		whole.cols += m.cols
	}
	whole.stride = whole.cols
	for _, m := range list {
		m.stride = whole.cols
	}
	return whole
}

// joinParams is the matrix of parameters that lie one after another.
func (p *program) joinParams(list []*matrix) *matrix {
	whole := *list[0]
	whole.rows, whole.cols, whole.params = 0, list[0].cols, nil
	vectors := list[0].rows == 1
	if vectors {
		whole.cols = 0
	}
	for _, m := range list {
		whole.params = append(whole.params, m.params...)
		if vectors {
			whole.rows, whole.cols = 1, whole.cols+m.cols
		} else {
			whole.rows += m.rows
		}
	}
	whole.stride = whole.cols
	whole.name = whole.param()
	if whole.role == weight {
		p.joined = append(p.joined, whole.params)
	}
	return &whole
}

// shareKeyGradients adds up the gradients of keys and values that several
// layers read, in the order of the backward pass, without writing each layer's
// own.
func (p *program) shareKeyGradients() {
	each(p, func(o *operation, k attentionGrad) {
		chain := []*operation{o}
		if k.sharing != alone {
			return
		}
		keys, values := p.only(o.out[1]), p.only(o.out[2])
		if !isSum(keys) || !isSum(values) {
			return
		}
		for _, in := range keys.in {
			g := p.maker(in)
			if g == nil || g == o || len(g.out) != 3 || in != g.out[1] || p.only(in) != keys || p.only(g.out[2]) != values {
				continue
			}
			if other, ok := g.kind.(attentionGrad); ok && other == k {
				chain = append(chain, g)
			}
		}
		if len(chain) < 2 {
			return
		}
		slices.SortFunc(chain, func(a, b *operation) int { return p.at(a) - p.at(b) })
		dk, dv := o.out[1], o.out[2]
		sums := []*matrix{newMatrix("sum"+dk.name, dk.rows, dk.cols, float), newMatrix("sum"+dv.name, dv.rows, dv.cols, float)}
		end := chain[len(chain)-1]
		for i, g := range chain {
			k.sharing = middle
			if i == 0 {
				k.sharing = first
			}
			if g == end {
				k.sharing = last
			}
			g.kind = k
			g.in = append(g.in, sums...)
			keys.in = without(keys.in, g.out[1], end.out[1])
			values.in = without(values.in, g.out[2], end.out[2])
			if g != end {
				g.out = g.out[:1]
			}
		}
		p.dropTrivialSum(keys)
		p.dropTrivialSum(values)
	})
}

func isSum(o *operation) bool {
	if o == nil {
		return false
	}
	_, ok := o.kind.(sum)
	return ok
}

// without takes m out of the list unless it is the one to keep.
func without(list []*matrix, m, keep *matrix) []*matrix {
	if m == keep {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(x *matrix) bool { return x == m })
}

// dropTrivialSum removes a sum of one term.
func (p *program) dropTrivialSum(o *operation) {
	if len(o.in) > 1 {
		return
	}
	p.replace(o.out[0], o.in[0])
	p.remove(o)
}

// joinProjectionGradients gives the gradients of projections that were joined
// the same form: side by side, so that one product each makes the gradient of
// the input and of the weights.
func (p *program) joinProjectionGradients() {
	for _, params := range slices.Clone(p.joined) {
		p.joinGradients(params)
	}
}

// joinGradients joins the products of one group of weights; it leaves biases
// and groups whose gradients do not have the expected form alone.
func (p *program) joinGradients(params []string) {
	var parts []*matrix // gradients of the projections
	var inputs, weights []*operation
	var w []*matrix
	for _, name := range params {
		o := p.find(func(o *operation) bool {
			return o.kind == kind(product{}) && o.in[1].role == weight && o.in[1].param() == name
		})
		if o == nil || !p.placeable(o.in[0]) {
			return
		}
		dw := p.find(func(x *operation) bool { return x.kind == kind(product{transA: true}) && x.in[0] == o.in[0] })
		if dw == nil || dw.out[0].role != gradient {
			return
		}
		parts, w = append(parts, o.in[0]), append(w, o.in[1])
		inputs, weights = append(inputs, o), append(weights, dw)
	}
	total := p.only(inputs[0].out[0])
	if !isSum(total) {
		return
	}
	for i := range inputs {
		if p.only(inputs[i].out[0]) != total || weights[i].in[1] != weights[0].in[1] {
			return
		}
	}
	whole := sideBySide(parts)
	dx := inputs[0].out[0]
	joined := &operation{kind: product{}, in: []*matrix{whole, p.joinParams(w)}, out: []*matrix{dx}, layer: total.layer, backward: true}
	// The last part is ready where the last of the products stands.
	p.ops[p.at(lastOf(p, inputs))] = joined
	p.remove(inputs...)
	for _, o := range inputs[1:] {
		total.in = without(total.in, o.out[0], dx)
	}
	p.dropTrivialSum(total)
	p.joinWeightGradients(weights, whole)
	p.joinBiasGradients(parts, whole)
}

func (p *program) joinWeightGradients(weights []*operation, whole *matrix) {
	var outs []*matrix
	for _, o := range weights {
		outs = append(outs, o.out[0])
	}
	joined := &operation{kind: product{transA: true}, in: []*matrix{whole, weights[0].in[1]}, out: []*matrix{p.joinParams(outs)}, layer: weights[0].layer, backward: true}
	p.ops[p.at(lastOf(p, weights))] = joined
	p.remove(weights...)
}

func (p *program) joinBiasGradients(parts []*matrix, whole *matrix) {
	var sums []*operation
	var outs []*matrix
	for _, m := range parts {
		o := p.find(func(o *operation) bool { return o.kind == kind(columnSum{}) && o.in[0] == m })
		if o == nil {
			return
		}
		sums, outs = append(sums, o), append(outs, o.out[0])
	}
	joined := &operation{kind: columnSum{}, in: []*matrix{whole}, out: []*matrix{p.joinParams(outs)}, layer: sums[0].layer, backward: true}
	p.ops[p.at(lastOf(p, sums))] = joined
	p.remove(sums...)
}

func (p *program) find(is func(*operation) bool) *operation {
	if i := slices.IndexFunc(p.ops, is); i >= 0 {
		return p.ops[i]
	}
	return nil
}

func lastOf(p *program, ops []*operation) *operation {
	return slices.MaxFunc(ops, func(a, b *operation) int { return p.at(a) - p.at(b) })
}

// placeable reports whether m can be written with a stride.
func (p *program) placeable(m *matrix) bool {
	o := p.maker(m)
	if o == nil || m.role != transient || m.of != nil {
		return false
	}
	switch o.kind.(type) {
	case rotary, attentionGrad:
		return true
	}
	return false
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

// joinRotaries turns queries and keys that lie side by side at once.
func (p *program) joinRotaries() {
	each(p, func(o *operation, k rotary) {
		for _, other := range p.ops {
			if other != o && other.kind == kind(k) && inPlace(o) && inPlace(other) && besides(o.in[0], other.in[0]) {
				p.joinAt(o, other)
				return
			}
		}
	})
}

// inPlace reports whether the one result of o lies where its one operand does.
func inPlace(o *operation) bool {
	return len(o.in) == 1 && (o.out[0].of == o.in[0] || o.in[0].of == o.out[0])
}

// besides reports whether b's columns follow a's in one matrix.
func besides(a, b *matrix) bool {
	aroot, at := a.root()
	broot, bt := b.root()
	return aroot == broot && bt == at+a.cols && a.stride == b.stride
}

// joinAt lets o do the work of other, too, in the place of the later of the two,
// where the operands of both are made, unless a result is needed before.
func (p *program) joinAt(o, other *operation) {
	early, late := o, other
	if p.at(early) > p.at(late) {
		early, late = late, early
	}
	i, j := p.at(early), p.at(late)
	for _, between := range p.ops[i+1 : j] {
		if slices.Contains(between.in, early.out[0]) {
			return
		}
	}
	o.in, o.out = append(o.in, other.in...), append(o.out, other.out...)
	p.ops[j] = o
	p.ops = slices.Delete(p.ops, i, i+1)
}
