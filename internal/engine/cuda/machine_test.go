package cuda

import (
	"fmt"
	"math"

	"gorgonia.org/tensor"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// machine runs a program's operations by the CPU's kernels in memory that is
// laid out as on the device in float32 mode: it checks tracing, fusing and
// placing without a GPU.
type machine struct {
	p      *program
	arena  *arena
	params *params
	memory []float32 // the arena
	weight []float32
	taught *constants // of the teacher
	others []float32  // its weights
	grad   []float32
	ints   map[*matrix][]int32
}

func newMachine(cfg model.Config, w testWeights, p *program) *machine {
	x := &machine{p: p, arena: place(p, sizes{4}), params: placeParams(cfg, p.joined, p.beside), ints: map[*matrix][]int32{}}
	x.memory = make([]float32, x.arena.size/4)
	x.weight, x.grad = make([]float32, x.params.size), make([]float32, x.params.size)
	for name, v := range w {
		x.each(name, func(at, i int) { x.weight[at] = v[i] })
	}
	return x
}

// at is the memory of a matrix from its first element on.
func (x *machine) at(m *matrix) []float32 {
	root, offset := m.root()
	if root.taught {
		return x.others[int(x.taught.offset(root)/4)+offset:]
	}
	switch root.role {
	case transient:
		return x.memory[int(x.arena.offset[root]/4)+offset:]
	case gradient:
		return x.grad[x.params.offset[root.params[0]]+offset:]
	}
	return x.weight[x.params.offset[root.params[0]]+offset:]
}

// read copies a matrix out.
func (x *machine) read(m *matrix) op.Array {
	if m.role == input {
		return op.Array{Shape: tensor.Shape{m.cols}, I32: x.ints[m]}
	}
	src := x.at(m)
	out := make([]float32, 0, m.size())
	for i := range m.rows {
		out = append(out, src[i*m.stride:i*m.stride+m.cols]...)
	}
	shape := tensor.Shape{m.rows, m.cols}
	if m.rows == 1 {
		shape = tensor.Shape{m.cols}
	}
	return op.Array{Shape: shape, F32: out}
}

// write copies a matrix in, or adds to a gradient.
func (x *machine) write(m *matrix, v []float32) {
	root, _ := m.root()
	dst := x.at(m)
	for i := range m.rows {
		row := dst[i*m.stride : i*m.stride+m.cols]
		for j := range row {
			if root.role == gradient {
				row[j] += v[i*m.cols+j]
			} else {
				row[j] = v[i*m.cols+j]
			}
		}
	}
}

// each calls f with the place of every element of a parameter.
func (x *machine) each(name string, f func(at, i int)) {
	for _, p := range x.params.list {
		if p.Name != name {
			continue
		}
		rows, cols := rowsOf(p)
		pitch := max(x.params.pitch[name], cols)
		for i := range rows * cols {
			f(x.params.offset[name]+i/cols*pitch+i%cols, i)
		}
	}
}

// gradient is a parameter's.
func (x *machine) gradient(p model.Param) []float32 {
	g := make([]float32, p.Size())
	x.each(p.Name, func(at, i int) { g[i] = x.grad[at] })
	return g
}

func (x *machine) poison(m *matrix) {
	root, _ := m.root()
	if root == m && m.role == transient {
		dst := x.at(m)[:m.rows*m.stride]
		for i := range dst {
			dst[i] = float32(math.NaN())
		}
	}
}

// call runs an operator on copies of its operands and returns its result.
func call(o op.Operator, in ...op.Array) []float32 {
	var shapes []tensor.Shape
	for _, a := range in {
		shapes = append(shapes, a.Shape)
	}
	out := op.NewArray(tensor.Float32, o.OutShape(shapes))
	o.Run(out, in)
	return out.F32
}

// clear readies the gradients as the device has them before a step: those that are
// replaced keep what was there, here NaN.
func (x *machine) clear() {
	_, names := x.p.replaced()
	for name, replaced := range names {
		x.each(name, func(at, _ int) {
			x.grad[at] = 0
			if replaced {
				x.grad[at] = float32(math.NaN())
			}
		})
	}
}

// run runs the program, as the first of a step or a further one.
func (x *machine) run(first bool) {
	by, _ := x.p.replaced()
	for i := range x.memory {
		x.memory[i] = float32(math.NaN())
	}
	for _, o := range x.p.ops {
		for _, m := range o.out {
			if first && by[o] && m.role == gradient {
				clear(x.at(m)[:m.size()])
			}
		}
		x.step(o)
	}
}

func (x *machine) step(o *operation) {
	in := make([]op.Array, len(o.in))
	for i, m := range o.in {
		in[i] = x.read(m)
	}
	for _, list := range [][]*matrix{o.out, o.temp} {
		for _, m := range list {
			x.poison(m)
		}
	}
	put := func(i int, v []float32) { x.write(o.out[i], v) }
	split := func(v []float32, outs ...int) {
		for _, i := range outs {
			n := o.out[i].size()
			put(i, v[:n])
			v = v[n:]
		}
	}
	switch k := o.kind.(type) {
	case embedding:
		put(0, call(op.Embed{}, in...))
	case embeddingGrad:
		put(0, call(op.EmbedGrad{Vocab: o.out[0].rows}, in...))
	case norms:
		for i := range (len(in) - 1) / 2 {
			put(i, call(op.LayerNorm{Eps: k.eps}, in[0], in[1+2*i], in[2+2*i]))
		}
		put(len(o.out)-1, make([]float32, o.out[len(o.out)-1].size()))
	case normsGrad:
		x.normsGrad(o, k, in, put)
	case product:
		put(0, x.product(k, in))
	case rotary:
		for i := range in {
			put(i, call(k.Rotary, in[i]))
		}
	case attention:
		split(call(k.Attention, in...), 0, 1)
	case attentionGrad:
		x.attentionGrad(o, k, in, put)
	case gelu:
		put(0, call(op.Gelu{}, biased(in[0], in[1:], k.bias)))
	case geluGrad:
		dx := call(op.GeluGrad{}, biased(in[0], in[1:], k.bias), in[len(in)-1])
		put(0, dx)
		if len(o.out) == 2 {
			put(1, call(op.ColumnSum{}, op.Array{Shape: in[0].Shape, F32: dx}))
		}
	case columnSum:
		put(0, call(op.ColumnSum{}, in[0]))
	case sum:
		put(0, call(op.Sum{}, in...))
	case duplicate:
		clear(x.at(o.out[0])[:o.out[0].size()])
		put(0, in[0].F32)
	case head:
		if !k.grad {
			put(0, onFirst(call(op.HeadLoss{}, in...), in[0].Shape[0]))
			return
		}
		pack := call(op.HeadLossGrad{}, append(in, one)...)
		put(0, onFirst(pack[:1], in[0].Shape[0]))
		split(pack[1:], 1, 2)
	case distill:
		pack := call(op.HeadDistillGrad{HeadDistill: k.HeadDistill}, append(in, one)...)
		for i, at := range []int{op.DistillCrossEntropy, op.DistillDivergence} {
			put(i, onFirst(pack[at:at+1], in[0].Shape[0]))
		}
		split(pack[op.DistillParts:], 2, 3)
	case score:
		for i, v := range call(op.HeadScore{}, in...) {
			x.at(o.out[i%2])[i/2] = v
		}
	case pick:
		put(0, call(op.Rows{}, in...))
	default:
		panic(fmt.Sprintf("operation %v", o))
	}
}

// one is the gradient of the loss by itself.
var one = op.Array{Shape: tensor.ScalarShape(), F32: []float32{1}}

// onFirst stands for the losses of n rows whose sum is known.
func onFirst(sum []float32, n int) []float32 { return append(sum[:1:1], make([]float32, n-1)...) }

func biased(a op.Array, bias []op.Array, has bool) op.Array {
	if !has {
		return a
	}
	out := op.Array{Shape: a.Shape, F32: make([]float32, len(a.F32))}
	for i, v := range a.F32 {
		out.F32[i] = v + bias[0].F32[i%len(bias[0].F32)]
	}
	return out
}

func (x *machine) normsGrad(o *operation, k normsGrad, in []op.Array, put func(int, []float32)) {
	total := make([]float32, o.out[0].size())
	if k.add {
		copy(total, in[len(in)-1].F32)
	}
	n, h := in[0].Shape[0], in[0].Shape[1]
	for i := range k.count {
		pack := call(op.LayerNormGrad{Eps: k.eps}, in[0], in[2+2*i], in[3+2*i])
		op.Accumulate(total, pack[:n*h])
		put(1+2*i, pack[n*h:n*h+h])
		put(2+2*i, pack[n*h+h:])
	}
	for i := 1 + 2*k.count; i < len(o.out); i++ {
		put(i, call(op.ColumnSum{}, in[len(in)-1]))
	}
	put(0, total)
}

func (x *machine) product(k product, in []op.Array) []float32 {
	a, b := in[0], in[1]
	at := func(m op.Array, i, j int, trans bool) float32 {
		if trans {
			i, j = j, i
		}
		return m.F32[i*m.Shape[1]+j]
	}
	m, kk, n := a.Shape[0], a.Shape[1], b.Shape[1]
	if k.transA {
		m, kk = kk, m
	}
	if k.transB {
		n = b.Shape[0]
	}
	out := make([]float32, m*n)
	for i := range m {
		for j := range n {
			s := 0.0
			for l := range kk {
				s += float64(at(a, i, l, k.transA)) * float64(at(b, l, j, k.transB))
			}
			if k.add {
				s += float64(in[2].F32[i*n+j])
			}
			if k.bias {
				s += float64(in[len(in)-1].F32[j])
			}
			out[i*n+j] = float32(s)
		}
	}
	return out
}

func (x *machine) attentionGrad(o *operation, k attentionGrad, in []op.Array, put func(int, []float32)) {
	q, kv := len(in[0].F32), len(in[1].F32)
	pack := op.Array{Shape: tensor.Shape{q + len(in[4].F32)}, F32: append(append([]float32(nil), in[3].F32...), in[4].F32...)}
	g := call(op.AttentionGrad{Attention: k.Attention}, in[0], in[1], in[2], pack, in[5])
	turned := func(v []float32, of op.Array, on bool) []float32 {
		if !on {
			return v
		}
		return call(k.turn, op.Array{Shape: of.Shape, F32: v})
	}
	sums := func(v []float32, of op.Array) []float32 {
		return call(op.ColumnSum{}, op.Array{Shape: of.Shape, F32: v})
	}
	dq := turned(g[:q], in[0], k.turnQuery)
	put(0, dq)
	bias := sums(dq, in[0])
	for i, part := range [][]float32{g[q : q+kv], g[q+kv:]} {
		if k.sharing == middle || k.sharing == last {
			op.Accumulate(part, in[6+i].F32)
		}
		if !k.writes() {
			x.write(o.in[6+i], part)
			continue
		}
		part = turned(part, in[1], i == 0 && k.turnKey)
		put(1+i, part)
		bias = append(bias, sums(part, in[1])...)
	}
	if k.bias {
		put(len(o.out)-1, bias)
	}
}
