package cuda

import (
	"slices"

	"mlkv/internal/model"
)

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
		slices.SortStableFunc(group, func(a, b *operation) int { return position[a.in[1].param()] - position[b.in[1].param()] })
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
	switch {
	case whole.role == weight && whole.taught:
		p.joinedTaught = append(p.joinedTaught, whole.params)
	case whole.role == weight:
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

// joinRotaries turns queries and keys that lie side by side at once.
func (p *program) joinRotaries() {
	each(p, func(o *operation, k rotary) {
		for _, other := range p.ops {
			if other != o && other.kind == kind(k) && inPlace(o) && inPlace(other) && follows(o.in[0], other.in[0]) {
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

// follows reports whether b's columns follow a's in one matrix.
func follows(a, b *matrix) bool {
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

// turnGradientsInAttention lets attention's derivative turn the gradients of
// queries and keys back where it has them in registers.
func (p *program) turnGradientsInAttention() {
	each(p, func(o *operation, k rotary) {
		g := p.maker(o.in[0])
		if g == nil || !k.Inverse || k.Dims*4 != k.HeadSize || p.only(o.in[0]) != o {
			return
		}
		a, ok := g.kind.(attentionGrad)
		if !ok || !a.atRows() || (a.turnQuery || a.turnKey) && a.turn != k.Rotary {
			return
		}
		a.turn = k.Rotary
		switch slices.Index(g.out, o.in[0]) {
		case 0:
			a.turnQuery = true
			g.out[0] = o.out[0]
		case 1:
			a.turnKey = true
			g.out[1] = o.out[0]
		}
		g.kind = a
		p.remove(o)
	})
}

// sumBiasGradientsInAttention takes the gradients of the biases of projections
// where attention's derivative has their rows in registers.
func (p *program) sumBiasGradientsInAttention() {
	each(p, func(o *operation, k attentionGrad) {
		if !k.atRows() {
			return
		}
		whole := o.out[0]
		if k.writes() {
			whole = whole.of
		}
		if whole == nil || k.writes() && !sideBySideIn(whole, o.out) {
			return
		}
		for _, u := range p.users(whole) {
			if _, ok := u.kind.(columnSum); ok && u.out[0].role == gradient {
				k.bias = true
				o.kind, o.out = k, append(o.out, u.out[0])
				p.remove(u)
				return
			}
		}
	})
}

// atRows reports whether the kernels of the derivative turn rows back and sum
// them: at the sizes at which a thread holds both channels of a pair.
func (k attentionGrad) atRows() bool { return k.HeadSize%64 == 0 }

// sideBySideIn reports whether the list is all columns of m, in order.
func sideBySideIn(m *matrix, list []*matrix) bool {
	at := 0
	for _, part := range list {
		if part.of != m || part.offset != at {
			return false
		}
		at += part.cols
	}
	return at == m.cols
}
