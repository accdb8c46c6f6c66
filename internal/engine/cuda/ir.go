package cuda

import (
	"fmt"
	"slices"
	"strings"

	"mlkv/internal/op"
)

// The engine's own form of a graph is a list of operations over matrices in
// device memory. trace writes it from a gorgonia graph, one operation a node;
// fuse joins operations as the kernels do; place gives every matrix its memory.

// element is the type that a matrix is stored in.
type element int

const (
	activation element = iota // bf16, or float32 in float32 mode
	float
	integer // int32
)

// role says who holds a matrix.
type role int

const (
	transient role = iota // in the arena, while it is needed
	weight                // a parameter in the type of activations
	master                // a parameter in float32
	gradient              // the sum of a parameter's gradients in float32
	input                 // tokens and targets
)

// matrix is rows x cols elements in device memory, row-major. A vector has one
// row.
type matrix struct {
	name       string
	rows, cols int
	elem       element
	role       role
	params     []string // of a weight, master or gradient: one, several joined by rows, or two side by side
	taught     bool     // whether params are the teacher's

	// A part lies in the memory of another matrix, at an offset in elements and
	// with that one's stride. A matrix that is made in the place of another one
	// is a part, too.
	of     *matrix
	offset int
	stride int // elements from a row to the next
}

func newMatrix(name string, rows, cols int, e element) *matrix {
	return &matrix{name: name, rows: rows, cols: cols, elem: e, stride: cols}
}

// root is the matrix whose memory m lies in, and where in it m begins.
func (m *matrix) root() (root *matrix, offset int) {
	for root = m; root.of != nil; root = root.of {
		offset += root.offset
	}
	return root, offset
}

func (m *matrix) size() int     { return m.rows * m.cols }
func (m *matrix) dense() bool   { return m.stride == m.cols || m.rows == 1 }
func (m *matrix) param() string { return strings.Join(m.params, "+") }

func (m *matrix) String() string {
	return fmt.Sprintf("%s[%dx%d]", m.name, m.rows, m.cols)
}

// operation is one kernel, or a fixed series of them. Gradients of parameters
// among its results are added to what is there; other results are written.
type operation struct {
	kind kind
	in   []*matrix
	out  []*matrix
	temp []*matrix // needed while it runs
	// layer is the model's layer that it belongs to, -1 outside.
	layer int
	// backward tells the derivative's operations from the model's own.
	backward bool
}

func (o *operation) String() string {
	return fmt.Sprintf("%v <- %T%+v %v", o.out, o.kind, o.kind, o.in)
}

// kind says what an operation does; its operands are listed with each kind.
type kind interface{ isKind() }

// embedding looks rows up: in tokens, weight; out x.
type embedding struct{}

// embeddingGrad: in tokens, dx; out the weight's gradient.
type embeddingGrad struct{}

// norms normalises the rows of one matrix and scales them in one or two ways:
// in x, then weight and bias of each; out y of each, then statistics [2, N] in
// float32: mean, 1/standard deviation.
type norms struct{ eps float64 }

// normsGrad: in x, statistics, then weight and dy of each of count norms, then,
// with add, what else flows into x; out dx, then the gradients of weight and
// bias of each, then the column sums of what else flows into x, for each bias
// that it is the gradient of.
type normsGrad struct {
	eps   float64
	count int
	add   bool
}

// product multiplies: in a, b, then c with add, then a bias with bias;
// out op(a) op(b) [+ c] [+ bias].
type product struct {
	transA, transB bool
	add, bias      bool
}

// rotary turns the heads of a matrix: in x; out y, which may be x itself.
type rotary struct{ op.Rotary }

// attention: in q, k, v; out y, logarithms of the denominators [R, A*T].
type attention struct{ op.Attention }

// sharing says what an attentionGrad does with the gradients of keys and values
// that several layers read.
type sharing int

const (
	alone  sharing = iota // writes dk and dv
	first                 // begins the sums
	middle                // adds to the sums
	last                  // adds the sums to its own and writes dk and dv
)

// attentionGrad: in q, k, v, y, logarithms, dy, then, unless alone, the sums of
// dk and dv in float32; out dq, and dk, dv if it writes them, then, with bias, the
// sums of the rows of all that it writes: the gradient of their biases.
type attentionGrad struct {
	op.Attention
	sharing
	// turn turns dq and dk back where asked for.
	turn                     op.Rotary
	turnQuery, turnKey, bias bool
}

// writes reports whether dk and dv are among the results.
func (k attentionGrad) writes() bool { return k.sharing == alone || k.sharing == last }

// gelu: in x, then a bias to add before with bias; out y.
type gelu struct{ bias bool }

// geluGrad: in x, then a bias with bias, then dy; out dx, which may be dy itself,
// then the gradient of the bias, the sum of dx's rows, with bias.
type geluGrad struct{ bias bool }

// columnSum: in x; out the sum of its rows.
type columnSum struct{}

// sum: in any number of matrices of one shape; out their sum.
type sum struct{}

// duplicate: in a gradient; out the same values.
type duplicate struct{}

// head projects onto the vocabulary, a chunk of rows at a time, and takes the
// cross-entropy: in x, weight, targets; out the loss of every row [1, N] in
// float32, then, with grad, dx and the weight's gradient.
type head struct{ grad bool }

// distill projects onto the vocabulary as head does and takes the cross-entropy
// and the divergence from a teacher: in x, weight, targets, the teacher's x and
// weight; out the cross-entropy and the divergence of every row, [1, N] in
// float32 each, then dx and the weight's gradient.
type distill struct{ op.HeadDistill }

// score: in x, weight, targets; out the log-likelihood of every row's target
// [1, N] in float32, then [1, N] int32: 1 where it is the most likely token,
// else 0.
type score struct{}

// pick copies rows: in x, index; out x's rows.
type pick struct{}

func (embedding) isKind()     {}
func (embeddingGrad) isKind() {}
func (norms) isKind()         {}
func (normsGrad) isKind()     {}
func (product) isKind()       {}
func (rotary) isKind()        {}
func (attention) isKind()     {}
func (attentionGrad) isKind() {}
func (gelu) isKind()          {}
func (geluGrad) isKind()      {}
func (columnSum) isKind()     {}
func (sum) isKind()           {}
func (duplicate) isKind()     {}
func (head) isKind()          {}
func (distill) isKind()       {}
func (score) isKind()         {}
func (pick) isKind()          {}

// program is the list of operations of one graph.
type program struct {
	ops []*operation
	// Results that are read after a run, and inputs; nil where there are none.
	losses, likelihood, greedy, logits *matrix
	divergence                         *matrix
	layers                             []observed
	tokens, targets, index             *matrix
	// joined lists groups of parameters that must lie one after another, and
	// joinedTaught those of the teacher's.
	joined, joinedTaught [][]string
	// beside lists pairs of parameters whose rows must lie side by side.
	beside [][]string
}

// replaced lists the operations that are the first to write the gradient of a
// parameter and can write it in the place of what is there: products; and the
// names of those parameters.
func (p *program) replaced() (by map[*operation]bool, names map[string]bool) {
	by, names = map[*operation]bool{}, map[string]bool{}
	seen := map[string]bool{}
	for _, o := range p.ops {
		for _, m := range o.out {
			if m.role != gradient {
				continue
			}
			first := !slices.ContainsFunc(m.params, func(name string) bool { return seen[name] })
			switch o.kind.(type) {
			case product, head, distill:
				by[o] = first
			default:
				first = false
			}
			for _, name := range m.params {
				seen[name], names[name] = true, names[name] || first
			}
		}
	}
	return by, names
}

// observed are the results that one layer's attention reads and makes; key and
// value are nil in a layer that borrows.
type observed struct{ input, query, key, value, output *matrix }

// results lists what is read after a run.
func (p *program) results() []*matrix {
	list := []*matrix{p.losses, p.divergence, p.likelihood, p.greedy, p.logits}
	for _, l := range p.layers {
		list = append(list, l.input, l.query, l.key, l.value, l.output)
	}
	return slices.DeleteFunc(list, func(m *matrix) bool { return m == nil })
}

// users lists the operations that read m itself.
func (p *program) users(m *matrix) []*operation {
	var out []*operation
	for _, o := range p.ops {
		for _, in := range o.in {
			if in == m {
				out = append(out, o)
				break
			}
		}
	}
	return out
}

// maker is the operation that writes m, nil for inputs and parameters.
func (p *program) maker(m *matrix) *operation {
	for _, o := range p.ops {
		for _, out := range o.out {
			if out == m {
				return o
			}
		}
	}
	return nil
}

// replace makes every reader of old read m instead.
func (p *program) replace(old, m *matrix) {
	for _, o := range p.ops {
		for i, in := range o.in {
			if in == old {
				o.in[i] = m
			}
		}
	}
}
