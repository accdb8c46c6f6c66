package op

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// distillCases are heads of odd shapes with a teacher of another width, for
// TestDerivatives.
func distillCases() []graphCase {
	var list []graphCase
	for _, o := range []HeadDistill{{0, 1}, {0.3, 1}, {1, 1}, {0.6, 0.5}, {0.4, 3}, {1, 2}} {
		list = append(list, graphCase{fmt.Sprintf("%+v", o), []tensor.Shape{{5, 3}, {7, 3}},
			func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
				return Apply(o, in[0], in[1], ints(g, "targets", 6, -1, 0, 3, -1), constant(g, "xt", 5, 2), constant(g, "wt", 7, 2))
			}})
	}
	const n = 2*headRows + 3
	return append(list, graphCase{"distillation of several chunks", []tensor.Shape{{n, 2}, {3, 2}},
		func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			targets := make([]int32, n)
			for i := range targets {
				targets[i] = int32(i%4) - 1
			}
			return Apply(HeadDistill{0.5, 2}, in[0], in[1], ints(g, "targets", targets...), constant(g, "xt", n, 4), constant(g, "wt", 3, 4))
		}})
}

// constant is a seeded matrix that no derivative is taken by.
func constant(g *gorgonia.ExprGraph, name string, rows, cols int) *gorgonia.Node {
	return gorgonia.NewTensor(g, tensor.Float64, 2, gorgonia.WithName(name),
		gorgonia.WithValue(tensor.New(tensor.WithShape(rows, cols), tensor.WithBacking(normal(rows*cols, 5)))))
}

func normal(n int, seed uint64) []float64 {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	x := make([]float64, n)
	for i := range x {
		x[i] = r.NormFloat64()
	}
	return x
}

// distillInputs are seeded inputs of HeadDistillGrad.
type distillInputs struct {
	n, h, v, ht    int
	x, w, xt, wt   []float64
	targets        []int32
	gradientFactor float64
}

func newDistillInputs(n, h, v, ht int) distillInputs {
	d := distillInputs{n: n, h: h, v: v, ht: ht, gradientFactor: 0.7,
		x: normal(n*h, 1), w: normal(v*h, 2), xt: normal(n*ht, 3), wt: normal(v*ht, 4), targets: make([]int32, n)}
	for i := range d.targets {
		d.targets[i] = int32((i*7)%(v+1)) - 1
	}
	return d
}

// run is the operator's pack in float32 or float64.
func (d distillInputs) run(o Operator, dtype tensor.Dtype) []float64 {
	float := func(x []float64, shape ...int) Array {
		a := NewArray(dtype, shape)
		for i, v := range x {
			if a.F64 != nil {
				a.F64[i] = v
			} else {
				a.F32[i] = float32(v)
			}
		}
		return a
	}
	targets := Array{Shape: tensor.Shape{d.n}, I32: d.targets}
	in := []Array{float(d.x, d.n, d.h), float(d.w, d.v, d.h), targets}
	if _, plain := o.(HeadLossGrad); !plain {
		in = append(in, float(d.xt, d.n, d.ht), float(d.wt, d.v, d.ht))
	}
	if _, forward := o.(HeadDistill); !forward {
		in = append(in, float([]float64{d.gradientFactor}))
	}
	var shapes []tensor.Shape
	for _, a := range in {
		shapes = append(shapes, a.Shape)
	}
	out := NewArray(dtype, o.OutShape(shapes))
	o.Run(out, in)
	if out.F64 != nil {
		return out.F64
	}
	wide := make([]float64, len(out.F32))
	for i, v := range out.F32 {
		wide[i] = float64(v)
	}
	return wide
}

// naive is the same pack written out from the definition: probabilities of
// every position, and the gradient of the logits carried back one by one.
func (d distillInputs) naive(o HeadDistill) []float64 {
	logits := func(x, w []float64, i, h int, temperature float64) []float64 {
		out := make([]float64, d.v)
		for j := range out {
			for k := range h {
				out[j] += x[i*h+k] * w[j*h+k] / temperature
			}
		}
		return out
	}
	softmax := func(z []float64) []float64 {
		sum, out := 0.0, make([]float64, len(z))
		for j := range z {
			out[j] = math.Exp(z[j])
			sum += out[j]
		}
		for j := range out {
			out[j] /= sum
		}
		return out
	}
	pack := make([]float64, 3+d.n*d.h+d.v*d.h)
	dx, dw := pack[3:3+d.n*d.h], pack[3+d.n*d.h:]
	for i, target := range d.targets {
		if target < 0 {
			continue
		}
		hard := softmax(logits(d.x, d.w, i, d.h, 1))
		q := softmax(logits(d.x, d.w, i, d.h, o.Temperature))
		p := softmax(logits(d.xt, d.wt, i, d.ht, o.Temperature))
		pack[1] -= math.Log(hard[target])
		for j := range d.v {
			pack[2] += p[j] * math.Log(p[j]/q[j])
			grad := (1-o.Weight)*hard[j] + o.Weight*o.Temperature*(q[j]-p[j])
			if j == int(target) {
				grad -= 1 - o.Weight
			}
			for k := range d.h {
				dx[i*d.h+k] += d.gradientFactor * grad * d.w[j*d.h+k]
				dw[j*d.h+k] += d.gradientFactor * grad * d.x[i*d.h+k]
			}
		}
	}
	pack[0] = (1-o.Weight)*pack[1] + o.Weight*o.Temperature*o.Temperature*pack[2]
	return pack
}

// TestDistillNaive compares values and gradients with the definition, in both
// float types, for odd shapes and several chunks.
func TestDistillNaive(t *testing.T) {
	for _, d := range []distillInputs{newDistillInputs(1, 1, 2, 1), newDistillInputs(7, 5, 13, 3), newDistillInputs(33, 9, 131, 17), newDistillInputs(headRows+9, 3, 11, 2)} {
		for _, o := range []HeadDistill{{0, 1}, {0.5, 1}, {1, 1}, {0.5, 2}, {0.25, 0.7}, {1, 5}} {
			want := d.naive(o)
			for dtype, allowed := range map[tensor.Dtype]float64{tensor.Float64: 1e-12, tensor.Float32: 2e-5} {
				got := d.run(HeadDistillGrad{o}, dtype)
				largest := 0.0
				for _, x := range want[3:] {
					largest = max(largest, math.Abs(x))
				}
				for i := range want {
					scale := largest
					if i < 3 {
						scale = math.Abs(want[0]) + math.Abs(want[1])
					}
					if off := math.Abs(got[i] - want[i]); !(off <= allowed*scale) {
						t.Fatalf("%d x %d, vocabulary %d, %+v, %v: element %d is %.9g, by the definition %.9g", d.n, d.h, d.v, o, dtype, i, got[i], want[i])
					}
				}
				if loss := d.run(o, dtype)[0]; loss != got[0] {
					t.Errorf("%+v, %v: %.9g without the gradient, %.9g with it", o, dtype, loss, got[0])
				}
			}
		}
	}
}

// TestDistillOfNoWeight: a teacher of no weight changes no bit.
func TestDistillOfNoWeight(t *testing.T) {
	d := newDistillInputs(headRows+9, 6, 37, 4)
	want := d.run(HeadLossGrad{}, tensor.Float32)
	for _, temperature := range []float64{1, 2} {
		got := d.run(HeadDistillGrad{HeadDistill{0, temperature}}, tensor.Float32)
		if got[DistillObjective] != want[0] || got[DistillCrossEntropy] != want[0] {
			t.Errorf("temperature %g: objective %v and cross-entropy %v, without a teacher %v", temperature, got[0], got[1], want[0])
		}
		for i, x := range want[1:] {
			if got[DistillParts+i] != x {
				t.Fatalf("temperature %g: gradient element %d is %v, without a teacher %v", temperature, i, got[DistillParts+i], x)
			}
		}
	}
}

// TestDistillOfItself: a teacher that is the model leaves no divergence, and
// the gradient of the cross-entropy's share alone.
func TestDistillOfItself(t *testing.T) {
	d := newDistillInputs(21, 6, 301, 6)
	d.xt, d.wt = d.x, d.w
	plain := d.run(HeadLossGrad{}, tensor.Float32)
	for _, o := range []HeadDistill{{0.3, 1}, {0.3, 2}, {1, 1}, {1, 3}} {
		got := d.run(HeadDistillGrad{o}, tensor.Float32)
		if got[DistillDivergence] != 0 {
			t.Errorf("%+v: divergence from itself is %v", o, got[DistillDivergence])
		}
		for i, x := range plain[1:] {
			if want := (1 - o.Weight) * x; math.Abs(got[DistillParts+i]-want) > 2e-6 {
				t.Fatalf("%+v: gradient element %d is %v, the cross-entropy's share %v", o, i, got[DistillParts+i], want)
			}
		}
	}
}

// TestDistillAnyThreads: the number of threads changes no bit.
func TestDistillAnyThreads(t *testing.T) {
	defer blas.SetThreads(0)
	d := newDistillInputs(headRows+9, 6, 37, 4)
	var first []float64
	for _, threads := range []int{1, 2, 5} {
		blas.SetThreads(threads)
		got := d.run(HeadDistillGrad{HeadDistill{0.5, 2}}, tensor.Float32)
		if first == nil {
			first = got
		}
		for i := range got {
			if got[i] != first[i] {
				t.Fatalf("%d threads: element %d is %v, with one %v", threads, i, got[i], first[i])
			}
		}
	}
}

func TestDistillShapes(t *testing.T) {
	g := gorgonia.NewGraph()
	x, w := constant(g, "x", 4, 6), constant(g, "w", 9, 6)
	targets := ints(g, "targets", 1, 2, 3, 4)
	for name, teacher := range map[string][2]*gorgonia.Node{
		"another vocabulary":   {constant(g, "xt", 4, 3), constant(g, "wt", 8, 3)},
		"other positions":      {constant(g, "xt2", 5, 3), constant(g, "wt2", 9, 3)},
		"a head of no fitting": {constant(g, "xt3", 4, 3), constant(g, "wt3", 9, 2)},
	} {
		if err := Build(func() { Apply(HeadDistill{0.5, 1}, x, w, targets, teacher[0], teacher[1]) }); err == nil {
			t.Errorf("a teacher of %s was accepted", name)
		}
	}
}
