package cuda

import "slices"

// joinOutputs makes one product of the two that a parallel residual adds up, those
// of attention's output and of the MLP's: [attention | MLP] times [their weights],
// and so in the backward pass. The narrow product alone would be bound by what it
// reads and writes. Operands lie side by side, and so do the parameters' rows, if
// allowed says that the two may.
func (p *program) joinOutputs(allowed func(params []string) bool) {
	each(p, func(o *operation, k product) {
		if k != (product{transB: true, add: true, bias: true}) {
			return
		}
		first := p.maker(o.in[2])
		if first == nil || first.kind != o.kind || p.only(o.in[2]) != o {
			return
		}
		pair := [2]*operation{first, o}
		for _, g := range pair {
			if w := g.in[1]; w.role != weight || w.taught || len(w.params) != 1 || !p.apart(g.in[0]) {
				return
			}
		}
		if !allowed([]string{first.in[1].param(), o.in[1].param()}) {
			return
		}
		back, fit := p.derivatives(pair)
		if !fit {
			return
		}
		w, x := p.layBeside(first.in[1], o.in[1]), sideBySide([]*matrix{first.in[0], o.in[0]})
		bias := newMatrix(first.in[3].name+"+"+o.in[3].name, 1, o.in[3].cols, activation)
		total := &operation{kind: sum{}, in: []*matrix{first.in[3], o.in[3]}, out: []*matrix{bias}, layer: o.layer, backward: o.backward}
		o.in = []*matrix{x, w, first.in[2], bias}
		p.ops = slices.Insert(p.ops, p.at(o), total)
		p.remove(first)
		if len(back) > 0 {
			p.joinDerivatives(back, x, w)
		}
	})
}

// apart reports whether m's rows may lie apart: all that make and read it take a
// stride.
func (p *program) apart(m *matrix) bool {
	o := p.maker(m)
	if o == nil || m.role != transient || m.of != nil {
		return false
	}
	return !slices.ContainsFunc(append(p.users(m), o), func(u *operation) bool {
		switch u.kind.(type) {
		case attention, attentionGrad, gelu, geluGrad:
			return false
		case product:
			return slices.Index(u.in, m) > 1 // a term to add
		}
		return true
	})
}

// derivatives are the products of the backward pass that belong to two of the
// forward pass: for each the one for its input and the one for its weights; none
// where there is no backward pass, and false where they do not fit together.
func (p *program) derivatives(pair [2]*operation) (list []*operation, fit bool) {
	for _, g := range pair {
		var input, weights *operation
		for _, o := range p.ops {
			switch {
			case o.kind == kind(product{}) && o.in[1].param() == g.in[1].param() && o.in[1].role == weight && !o.in[1].taught:
				input = o
			case o.kind == kind(product{transA: true}) && o.in[1] == g.in[0]:
				weights = o
			}
		}
		if input == nil && weights == nil {
			continue
		}
		if input == nil || weights == nil || weights.in[0] != input.in[0] || !p.apart(input.out[0]) ||
			weights.out[0].role != gradient || len(weights.out[0].params) != 1 {
			return nil, false
		}
		list = append(list, input, weights)
	}
	if len(list) == 0 {
		return nil, true
	}
	return list, len(list) == 4 && list[0].in[0] == list[2].in[0]
}

// joinDerivatives joins what derivatives found.
func (p *program) joinDerivatives(list []*operation, x, w *matrix) {
	dy := list[0].in[0]
	dx := sideBySide([]*matrix{list[0].out[0], list[2].out[0]})
	dw := *w
	dw.role, dw.elem, dw.name = gradient, float, "d "+w.name
	inputs, weights := []*operation{list[0], list[2]}, []*operation{list[1], list[3]}
	early := slices.MinFunc(inputs, func(a, b *operation) int { return p.at(a) - p.at(b) })
	p.ops[p.at(early)] = &operation{kind: product{}, in: []*matrix{dy, w}, out: []*matrix{dx}, layer: early.layer, backward: true}
	late := lastOf(p, weights)
	p.ops[p.at(late)] = &operation{kind: product{transA: true}, in: []*matrix{dy, x}, out: []*matrix{&dw}, layer: late.layer, backward: true}
	p.remove(append(inputs, weights...)...)
}

// layBeside is the matrix of two parameters whose rows lie side by side.
func (p *program) layBeside(a, b *matrix) *matrix {
	whole := *a
	whole.cols += b.cols
	whole.stride = whole.cols
	whole.params = []string{a.param(), b.param()}
	whole.name = whole.param()
	p.beside = append(p.beside, whole.params)
	return &whole
}

// liesBeside reports whether parameters lie side by side in p.
func (p *program) liesBeside(params []string) bool {
	return slices.ContainsFunc(p.beside, func(g []string) bool { return slices.Equal(g, params) })
}
