package op

import (
	"math"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// Rotary turns the leading Dims channels of every head by an angle that grows
// with the position (arXiv 2104.09864, in GPT-NeoX's layout: channel p is
// paired with p + Dims/2, and turns by position * Base^(-2p/Dims)):
// x [N, heads*HeadSize] -> same shape. Token n stands at position n mod Length.
// Inverse turns back, which is the derivative.
type Rotary struct {
	Length, HeadSize, Dims int
	Base                   float64
	Inverse                bool
}

func (o Rotary) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 1 && len(in[0]) == 2 && in[0][0]%o.Length == 0 && in[0][1]%o.HeadSize == 0, o, in)
	return in[0]
}

func (o Rotary) Run(out Array, in []Array) { run(o, out, in, rotary[float32], rotary[float64]) }

func rotary[T blas.Float](o Rotary, out []T, a args[T]) {
	w := a.Shape[0][1]
	table := rotaryTable[T](o, 0, min(o.Length, a.Shape[0][0]))
	blas.Chunks(a.Shape[0][0], 64, func(lo, hi int) {
		for n := lo; n < hi; n++ {
			row := out[n*w : (n+1)*w]
			copy(row, a.F[0][n*w:(n+1)*w])
			table.turn(row, n%o.Length)
		}
	})
}

// rotaryAngles are the cosines and sines of consecutive positions.
type rotaryAngles[T blas.Float] struct {
	o        Rotary
	from     int
	cos, sin []T // [positions, Dims/2]
}

// rotaryTable computes the angles of n positions from the given one, in float64.
func rotaryTable[T blas.Float](o Rotary, from, n int) rotaryAngles[T] {
	half := o.Dims / 2
	t := rotaryAngles[T]{o, from, make([]T, n*half), make([]T, n*half)}
	for p := range half {
		inv := 1 / math.Pow(o.Base, float64(2*p)/float64(o.Dims))
		for i := range n {
			sin, cos := math.Sincos(float64(from+i) * inv)
			if o.Inverse {
				sin = -sin
			}
			t.cos[i*half+p], t.sin[i*half+p] = T(cos), T(sin)
		}
	}
	return t
}

// turn rotates every head of a row in place.
func (t rotaryAngles[T]) turn(row []T, position int) {
	half := t.o.Dims / 2
	at := (position - t.from) * half
	cos, sin := t.cos[at:at+half], t.sin[at:at+half]
	for h := 0; h < len(row); h += t.o.HeadSize {
		x, y := row[h:h+half], row[h+half:h+2*half]
		for p := range half {
			x[p], y[p] = x[p]*cos[p]-y[p]*sin[p], y[p]*cos[p]+x[p]*sin[p]
		}
	}
}

func (o Rotary) Differentiates(int) []bool { return all(1) }

func (o Rotary) Grad(_ []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	o.Inverse = !o.Inverse
	return []*gorgonia.Node{Apply(o, grad)}
}
