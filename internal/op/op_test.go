package op

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// graphCase builds a scalar from float64 inputs of the given shapes.
type graphCase struct {
	name   string
	shapes []tensor.Shape
	build  func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node
}

// weigh reduces a result to a scalar whose gradient differs everywhere: a
// head's loss over few classes stands for it.
func weigh(g *gorgonia.ExprGraph, x *gorgonia.Node) *gorgonia.Node {
	n, h := x.Shape()[0], x.Shape()[1]
	r := rand.New(rand.NewPCG(7, uint64(n*h)))
	w := make([]float64, 3*h)
	for i := range w {
		w[i] = r.NormFloat64()
	}
	weight := gorgonia.NewTensor(g, tensor.Float64, 2, gorgonia.WithName("weigh"),
		gorgonia.WithValue(tensor.New(tensor.WithShape(3, h), tensor.WithBacking(w))))
	targets := make([]int32, n)
	for i := range targets {
		targets[i] = int32(i%4) - 1
	}
	return Apply(HeadLoss{}, x, weight, ints(g, "weigh targets", targets...))
}

func ints(g *gorgonia.ExprGraph, name string, v ...int32) *gorgonia.Node {
	return gorgonia.NewVector(g, tensor.Int32, gorgonia.WithName(name),
		gorgonia.WithValue(tensor.New(tensor.WithShape(len(v)), tensor.WithBacking(v))))
}

func cases() []graphCase {
	list := []graphCase{
		{"embed", []tensor.Shape{{5, 3}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(Embed{}, ints(g, "ids", 4, 0, 4, 2, 1, 4, 4), in[0]))
		}},
		{"layer norm", []tensor.Shape{{7, 5}, {5}, {5}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(LayerNorm{Eps: 1e-5}, in...))
		}},
		{"layer norm of many rows", []tensor.Shape{{normRows + 3, 2}, {2}, {2}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(LayerNorm{Eps: 0.1}, in...))
		}},
		{"linear with bias", []tensor.Shape{{7, 3}, {5, 3}, {5}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(Linear{}, in...))
		}},
		{"linear of few rows", []tensor.Shape{{3, 9}, {5, 9}, {5}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(Linear{}, in...))
		}},
		{"linear without bias", []tensor.Shape{{6, 3}, {4, 3}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(Linear{}, in...))
		}},
		{"gelu", []tensor.Shape{{5, 7}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(Gelu{}, in...))
		}},
		{"sum used twice", []tensor.Shape{{3, 5}, {3, 5}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(Sum{}, in[0], Apply(Gelu{}, in[0]), in[1]))
		}},
		{"head loss", []tensor.Shape{{5, 3}, {7, 3}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return Apply(HeadLoss{}, in[0], in[1], ints(g, "targets", 6, -1, 0, 3, -1))
		}},
		{"head loss of several chunks", []tensor.Shape{{headRows + 3, 2}, {3, 2}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			targets := make([]int32, headRows+3)
			for i := range targets {
				targets[i] = int32(i % 3)
			}
			return Apply(HeadLoss{}, in[0], in[1], ints(g, "targets", targets...))
		}},
	}
	list = append(list, distillCases()...)
	for _, r := range []Rotary{{Length: 5, HeadSize: 6, Dims: 4, Base: 10}, {Length: 3, HeadSize: 2, Dims: 2, Base: 10000}, {Length: 15, HeadSize: 6, Dims: 2, Base: 100}} {
		list = append(list, graphCase{fmt.Sprintf("rotary %+v", r), []tensor.Shape{{15, 6}}, func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			return weigh(g, Apply(r, in[0]))
		}})
	}
	for _, a := range []Attention{
		{Length: 7, Heads: 2, KVHeads: 2, HeadSize: 3}, {Length: 5, Heads: 6, KVHeads: 2, HeadSize: 1},
		{Length: 1, Heads: 3, KVHeads: 1, HeadSize: 2}, {Length: queryBlock + 5, Heads: 2, KVHeads: 1, HeadSize: 2},
	} {
		rows := 2
		if a.Length > 20 {
			rows = 1
		}
		n := rows * a.Length
		list = append(list, graphCase{fmt.Sprintf("attention %+v", a),
			[]tensor.Shape{{n, a.Heads * a.HeadSize}, {n, a.KVHeads * a.HeadSize}, {n, a.KVHeads * a.HeadSize}},
			func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
				return weigh(g, Attend(a, in[0], in[1], in[2]))
			}})
	}
	list = append(list, graphCase{"two layers that share keys and values", []tensor.Shape{{6, 8}, {6, 4}, {6, 4}},
		func(g *gorgonia.ExprGraph, in []*gorgonia.Node) *gorgonia.Node {
			a := Attention{Length: 3, Heads: 2, KVHeads: 1, HeadSize: 4}
			first := Attend(a, in[0], in[1], in[2])
			return weigh(g, Attend(a, Apply(Sum{}, first, in[0]), in[1], in[2]))
		}})
	return list
}

// TestDerivatives checks every operator's symbolic derivative, run by
// gorgonia's tape machine in float64, against central differences.
func TestDerivatives(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(11, 13))
			values := make([][]float64, len(c.shapes))
			for i, s := range c.shapes {
				values[i] = make([]float64, Size(s))
				for j := range values[i] {
					values[i][j] = r.NormFloat64()
				}
			}
			_, grads := evaluate(t, c, values, true)
			// Large inputs are checked at a sample of their elements.
			for i, v := range values {
				for j := 0; j < len(v); j += 1 + len(v)/40 {
					const h = 1e-5
					at := v[j]
					v[j] = at + h
					up, _ := evaluate(t, c, values, false)
					v[j] = at - h
					down, _ := evaluate(t, c, values, false)
					v[j] = at
					want, got := (up-down)/(2*h), grads[i][j]
					if math.Abs(got-want) > 1e-6*(1+math.Abs(want)) {
						t.Errorf("input %d, element %d: derivative %.9g, central difference %.9g", i, j, got, want)
					}
				}
			}
		})
	}
}

func evaluate(t *testing.T, c graphCase, values [][]float64, grad bool) (float64, [][]float64) {
	t.Helper()
	g := gorgonia.NewGraph()
	var in []*gorgonia.Node
	for i, s := range c.shapes {
		in = append(in, gorgonia.NewTensor(g, tensor.Float64, len(s), gorgonia.WithName(fmt.Sprint("in", i)),
			gorgonia.WithValue(tensor.New(tensor.WithShape(s...), tensor.WithBacking(append([]float64(nil), values[i]...))))))
	}
	loss := c.build(g, in)
	var grads gorgonia.Nodes
	if grad {
		var err error
		if grads, err = gorgonia.Grad(loss, in...); err != nil {
			t.Fatal(err)
		}
	}
	m := gorgonia.NewTapeMachine(g)
	defer m.Close()
	if err := m.RunAll(); err != nil {
		t.Fatal(err)
	}
	out := make([][]float64, len(grads))
	for i, n := range grads {
		out[i] = n.Value().Data().([]float64)
	}
	return loss.Value().Data().(float64), out
}

// TestRotaryInverse: turning back after turning changes nothing.
func TestRotaryInverse(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	x := NewArray(tensor.Float64, tensor.Shape{10, 12})
	for i := range x.F64 {
		x.F64[i] = r.NormFloat64()
	}
	o := Rotary{Length: 10, HeadSize: 6, Dims: 4, Base: 10000}
	turned, back := NewArray(tensor.Float64, x.Shape), NewArray(tensor.Float64, x.Shape)
	o.Run(turned, []Array{x})
	o.Inverse = true
	o.Run(back, []Array{turned})
	moved := false
	for i := range x.F64 {
		if math.Abs(back.F64[i]-x.F64[i]) > 1e-12 {
			t.Fatalf("element %d: %g became %g", i, x.F64[i], back.F64[i])
		}
		moved = moved || math.Abs(turned.F64[i]-x.F64[i]) > 1e-3
	}
	if !moved {
		t.Fatal("rotary turned nothing")
	}
}

func TestShapesThatDoNotFit(t *testing.T) {
	g := gorgonia.NewGraph()
	x := gorgonia.NewTensor(g, tensor.Float32, 2, gorgonia.WithShape(4, 6), gorgonia.WithName("x"))
	w := gorgonia.NewTensor(g, tensor.Float32, 2, gorgonia.WithShape(5, 7), gorgonia.WithName("w"))
	if err := Build(func() { Apply(Linear{}, x, w) }); err == nil {
		t.Error("a linear map of 6 inputs took 7")
	}
	if err := Build(func() { Apply(Attention{Length: 3, Heads: 1, KVHeads: 1, HeadSize: 6}, x, x, x) }); err == nil {
		t.Error("attention over rows of 3 took 4 tokens")
	}
}
