package cuda

import (
	"fmt"

	"gorgonia.org/gorgonia"
	"mlkv/internal/engine/plan"
	"mlkv/internal/graph"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// tracer turns the nodes of a graph into operations, one by one.
type tracer struct {
	g     *graph.Graph
	p     *program
	value map[*gorgonia.Node]*matrix
	// packs are the results of operators that have several, by where each
	// begins in the node.
	packs map[*gorgonia.Node]map[int]*matrix
	// statistics are those of the norms of a matrix.
	statistics map[*matrix]*matrix
	grads      map[*gorgonia.Node][]string // parameters that a node is the gradient of
	layers     map[string]int              // layer of a parameter
	layer      int
	backward   bool
}

// trace lists the operations that the graph's results need.
func trace(g *graph.Graph) (*program, error) {
	t := &tracer{
		g: g, p: &program{}, value: map[*gorgonia.Node]*matrix{}, packs: map[*gorgonia.Node]map[int]*matrix{},
		statistics: map[*matrix]*matrix{}, grads: map[*gorgonia.Node][]string{}, layers: map[string]int{}, layer: -1,
	}
	results := t.bind()
	order, err := plan.New(results, plan.Options{})
	if err != nil {
		return nil, err
	}
	for _, s := range order.Steps {
		if err := t.step(s); err != nil {
			return nil, err
		}
	}
	t.p.losses, t.p.likelihood, t.p.logits = t.find(g.Loss), t.find(g.Scores), t.find(g.Logits)
	if g.CrossEntropy != nil {
		t.p.losses, t.p.divergence = t.find(g.CrossEntropy), t.find(g.Divergence)
	}
	if t.p.likelihood != nil {
		t.p.greedy = t.p.maker(t.p.likelihood).out[1]
	}
	if g.Options.Output == graph.Activations {
		for _, l := range g.Layers {
			t.p.layers = append(t.p.layers, observed{t.find(l.Input), t.find(l.Query), t.find(l.Key), t.find(l.Value), t.find(l.Output)})
		}
	}
	t.gradients()
	return t.p, nil
}

// bind makes matrices of the graph's inputs and returns the nodes to compute.
func (t *tracer) bind() []*gorgonia.Node {
	g := t.g
	integers := func(name string, n *gorgonia.Node) *matrix {
		if n == nil {
			return nil
		}
		m := newMatrix(name, 1, op.Size(n.Shape()), integer)
		m.role = input
		t.value[n] = m
		return m
	}
	t.p.tokens, t.p.targets, t.p.index = integers("tokens", g.Tokens), integers("targets", g.Targets), integers("index", g.Index)
	var results []*gorgonia.Node
	for _, n := range []*gorgonia.Node{g.Loss, g.Scores, g.Logits} {
		if n != nil {
			results = append(results, n)
		}
	}
	if g.Options.Output == graph.Activations {
		for _, l := range g.Layers {
			for _, n := range []*gorgonia.Node{l.Input, l.Query, l.Key, l.Value, l.Output} {
				if n != nil {
					results = append(results, n)
				}
			}
		}
	}
	for _, param := range g.Config.Params() {
		t.parameter(g, param)
		t.layers[param.Name] = param.Layer
		if n := g.Grads[param.Name]; n != nil {
			results = append(results, n)
			t.grads[n] = append(t.grads[n], param.Name)
		}
	}
	if g.Teacher != nil {
		for _, param := range g.Teacher.Config.Params() {
			t.parameter(g.Teacher, param).taught = true
		}
	}
	return results
}

// parameter makes the matrix of a parameter.
func (t *tracer) parameter(g *graph.Graph, p model.Param) *matrix {
	m := newMatrix(p.Name, 1, p.Size(), activation)
	if len(p.Shape) == 2 {
		m.rows, m.cols, m.stride = p.Shape[0], p.Shape[1], p.Shape[1]
	}
	m.role, m.params = weight, []string{p.Name}
	t.value[g.Params[p.Name]] = m
	return m
}

// inputs are the matrices that a node reads.
func (t *tracer) inputs(n *gorgonia.Node) []*matrix {
	var out []*matrix
	for it := n.Graph().From(n.ID()); it.Next(); {
		out = append(out, t.find(it.Node().(*gorgonia.Node)))
	}
	return out
}

// find is the matrix of a node: a view is a part of its pack. A constant has
// none.
func (t *tracer) find(n *gorgonia.Node) *matrix {
	if n == nil {
		return nil
	}
	if o, ok := op.Of(n); ok {
		if v, ok := o.(op.Viewer); ok {
			it := n.Graph().From(n.ID())
			it.Next()
			return t.packs[it.Node().(*gorgonia.Node)][v.ViewOffset()]
		}
	}
	return t.value[n]
}

// emit appends an operation. A teacher's belong to no layer: nothing of them is
// computed again.
func (t *tracer) emit(k kind, in, out []*matrix) *operation {
	for _, m := range in {
		for _, name := range m.params {
			if !t.backward && !m.taught && t.layers[name] > t.layer {
				t.layer = t.layers[name]
			}
		}
	}
	o := &operation{kind: k, in: in, out: out, layer: t.layer, backward: t.backward}
	t.p.ops = append(t.p.ops, o)
	return o
}

// gradient marks the results that are gradients of parameters.
func (t *tracer) gradients() {
	for _, param := range t.g.Config.Params() {
		n := t.g.Grads[param.Name]
		if n == nil {
			continue
		}
		m := t.find(n)
		if m.role == gradient { // it is another parameter's, too
			twin := newMatrix("d "+param.Name, m.rows, m.cols, float)
			twin.role, twin.params = gradient, []string{param.Name}
			t.p.ops = append(t.p.ops, &operation{kind: duplicate{}, in: []*matrix{m}, out: []*matrix{twin}, layer: -1, backward: true})
			continue
		}
		t.mark(m, param.Name)
	}
}

// mark makes m the gradient of a parameter. The terms of a sum are added where
// the parameter's gradient is, one after another.
func (t *tracer) mark(m *matrix, name string) {
	m.name, m.role, m.elem, m.params = "d "+name, gradient, float, []string{name}
	o := t.p.maker(m)
	if _, ok := o.kind.(sum); !ok {
		return
	}
	for _, term := range o.in {
		maker := t.p.maker(term)
		for j, out := range maker.out {
			if out == term {
				maker.out[j] = m
			}
		}
	}
	t.p.remove(o)
}

// remove takes operations out of the list.
func (p *program) remove(gone ...*operation) {
	drop := map[*operation]bool{}
	for _, o := range gone {
		drop[o] = true
	}
	kept := p.ops[:0]
	for _, o := range p.ops {
		if !drop[o] {
			kept = append(kept, o)
		}
	}
	p.ops = kept
}

// step turns one node into an operation.
func (t *tracer) step(s plan.Step) error {
	in := t.inputs(s.Node)
	name := fmt.Sprintf("%%%d", s.Node.ID())
	shape := s.Node.Shape()
	single := func(k kind, rows, cols int, e element, in ...*matrix) {
		m := newMatrix(name, rows, cols, e)
		t.value[s.Node] = m
		t.emit(k, in, []*matrix{m})
	}
	switch o := s.Op.(type) {
	case nil: // gorgonia's addition
		single(sum{}, in[0].rows, in[0].cols, in[0].elem, in...)
	case op.Sum:
		single(sum{}, in[0].rows, in[0].cols, in[0].elem, in...)
	case op.Embed:
		single(embedding{}, shape[0], shape[1], activation, in...)
	case op.EmbedGrad:
		single(embeddingGrad{}, shape[0], shape[1], float, in...)
	case op.Linear:
		single(product{transB: true, bias: len(in) == 3}, shape[0], shape[1], activation, in...)
	case op.Product:
		single(product{transA: o.TransposeA}, shape[0], shape[1], activation, in...)
	case op.ColumnSum:
		single(columnSum{}, 1, shape[0], float, in...)
	case op.Rotary:
		single(rotary{o}, shape[0], shape[1], activation, in...)
	case op.Gelu:
		single(gelu{}, shape[0], shape[1], activation, in...)
	case op.GeluGrad:
		single(geluGrad{}, shape[0], shape[1], activation, in...)
	case op.Rows:
		single(pick{}, shape[0], shape[1], activation, in...)
	case op.HeadLoss:
		single(head{}, 1, in[0].rows, float, in...)
	case op.LayerNorm, op.LayerNormGrad, op.Attention, op.AttentionGrad, op.HeadLossGrad, op.HeadDistillGrad, op.HeadScore:
		t.pack(s, name, in)
	default:
		return fmt.Errorf("the CUDA engine has no kernel for the operator %T of node %v", s.Op, s.Node)
	}
	return nil
}

// pack turns a node that has several results into an operation.
func (t *tracer) pack(s plan.Step, name string, in []*matrix) {
	part := func(label string, rows, cols int, e element) *matrix { return newMatrix(name+label, rows, cols, e) }
	vector := func(label string, of *matrix) *matrix { return part(label, of.rows, of.cols, float) }
	switch o := s.Op.(type) {
	case op.LayerNorm:
		y, stats := part("", in[0].rows, in[0].cols, activation), part(".statistics", 2, in[0].rows, float)
		t.value[s.Node] = y
		t.statistics[in[0]] = stats
		t.emit(norms{o.Eps}, masters(in, 1), []*matrix{y, stats})
	case op.LayerNormGrad: // x, weight, dy
		x, w, dy := in[0], in[1], in[2]
		dx, dw, db := part(".dx", x.rows, x.cols, activation), vector(".dweight", w), vector(".dbias", w)
		t.packs[s.Node] = map[int]*matrix{0: dx, x.size(): dw, x.size() + w.size(): db}
		t.emit(normsGrad{eps: o.Eps, count: 1}, masters([]*matrix{x, t.statistics[x], w, dy}, 2), []*matrix{dx, dw, db})
	case op.Attention: // q, k, v
		y := part("", in[0].rows, in[0].cols, activation)
		lse := part(".lse", in[0].rows/o.Length, o.Heads*o.Length, float)
		t.value[s.Node] = y
		t.packs[s.Node] = map[int]*matrix{0: y, y.size(): lse}
		t.emit(attention{o}, in, []*matrix{y, lse})
	case op.AttentionGrad: // q, k, v, the pack of y and logarithms, dy
		q, k, v, y, dy := in[0], in[1], in[2], in[3], in[4]
		lse := t.p.maker(y).out[1]
		dq, dk, dv := part(".dq", q.rows, q.cols, activation), part(".dk", k.rows, k.cols, activation), part(".dv", v.rows, v.cols, activation)
		t.packs[s.Node] = map[int]*matrix{0: dq, q.size(): dk, q.size() + k.size(): dv}
		t.emit(attentionGrad{Attention: o.Attention}, []*matrix{q, k, v, y, lse, dy}, []*matrix{dq, dk, dv})
	case op.HeadLossGrad: // x, weight, targets, a constant one
		x, w := in[0], in[1]
		loss, dx, dw := part(".loss", 1, x.rows, float), part(".dx", x.rows, x.cols, activation), part(".dweight", w.rows, w.cols, float)
		t.packs[s.Node] = map[int]*matrix{0: loss, 1: dx, 1 + x.size(): dw}
		t.backward = true
		t.emit(head{grad: true}, in[:3], []*matrix{loss, dx, dw})
	case op.HeadDistillGrad: // x, weight, targets, the teacher's x and weight, a constant one
		x, w := in[0], in[1]
		ce, kl := part(".cross-entropy", 1, x.rows, float), part(".divergence", 1, x.rows, float)
		dx, dw := part(".dx", x.rows, x.cols, activation), part(".dweight", w.rows, w.cols, float)
		t.packs[s.Node] = map[int]*matrix{op.DistillCrossEntropy: ce, op.DistillDivergence: kl, op.DistillParts: dx, op.DistillParts + x.size(): dw}
		t.backward = true
		t.emit(distill{o.HeadDistill}, in[:5], []*matrix{ce, kl, dx, dw})
	case op.HeadScore:
		m := part("", 1, in[0].rows, float)
		t.value[s.Node] = m
		t.emit(score{}, in, []*matrix{m, part(".greedy", 1, in[0].rows, integer)})
	}
}

// masters reads parameters from in[from:] in float32.
func masters(in []*matrix, from int) []*matrix {
	out := append([]*matrix(nil), in...)
	for i := from; i < len(out); i++ {
		out[i] = asMaster(out[i])
	}
	return out
}

func asMaster(m *matrix) *matrix {
	if m.role != weight {
		return m
	}
	c := *m
	c.role, c.elem = master, float
	return &c
}
