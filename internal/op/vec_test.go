package op

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestVectorFunctions compares the float32 loops with math's functions over
// lengths that leave every possible tail.
func TestVectorFunctions(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 9))
	for n := 1; n < 70; n++ {
		x, dy, dst := make([]float32, n), make([]float32, n), make([]float32, n)
		for i := range x {
			x[i], dy[i] = float32(r.NormFloat64()*3), float32(r.NormFloat64())
		}
		near := func(what string, i int, got, want, tol float64) {
			t.Helper()
			if !(math.Abs(got-want) <= tol*(1+math.Abs(want))) {
				t.Fatalf("%s, n %d, element %d (x %g): got %.9g, want %.9g", what, n, i, x[i], got, want)
			}
		}
		total := expSum(dst, x, 1.5)
		sumExp, sumX, squares, product, greatest := 0.0, 0.0, 0.0, 0.0, math.Inf(-1)
		for i, v := range x {
			e := math.Exp(float64(v) - 1.5)
			near("exp", i, float64(dst[i]), e, 3e-7)
			sumExp += e
			sumX += float64(v)
			squares += (float64(v) - 0.5) * (float64(v) - 0.5)
			product += float64(v) * float64(dy[i])
			greatest = max(greatest, float64(v))
		}
		near("sum of exp", 0, float64(total), sumExp, 1e-6)
		near("sum", 0, float64(sum(x)), sumX, 1e-5)
		near("sum of squares", 0, float64(sumSquares(x, 0.5)), squares, 1e-5)
		near("dot", 0, float64(dot(x, dy)), product, 1e-5)
		near("max", 0, float64(maxOf(x)), greatest, 0)
		gelu(dst, x)
		for i, v := range x {
			f := float64(v)
			near("gelu", i, float64(dst[i]), 0.5*f*(1+math.Erf(f/math.Sqrt2)), 1e-6)
		}
		geluGrad(dst, x, dy)
		for i, v := range x {
			f := float64(v)
			near("gelu slope", i, float64(dst[i]), float64(dy[i])*(0.5*(1+math.Erf(f/math.Sqrt2))+f*math.Exp(-f*f/2)/math.Sqrt(2*math.Pi)), 2e-6)
		}
	}
}

func TestExpRange(t *testing.T) {
	x := []float32{-1000, -100, -87, -50, -1e-30, 0, 1e-30, 1, 50, 88, -3, 2}
	dst := make([]float32, len(x))
	expSum(dst, x, 0)
	for i, v := range x {
		want := math.Exp(float64(v))
		if diff := math.Abs(float64(dst[i]) - want); diff > 3e-7*want+2e-38 {
			t.Errorf("exp(%g): got %g, want %g", v, dst[i], want)
		}
	}
}

func TestAdamW(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 3))
	const n = 37
	w, m, v, g := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
	rw, rm, rv := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range w {
		w[i] = float32(r.NormFloat64())
		rw[i] = float64(w[i])
	}
	for step := 1; step <= 5; step++ {
		s := AdamWStep{Rate: 0.01, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Decay: 0.1, T: step, GradScale: 0.5}
		for i := range g {
			g[i] = float32(r.NormFloat64())
			gi := float64(g[i]) * 0.5
			rw[i] *= 1 - 0.01*0.1
			rm[i] = 0.9*rm[i] + 0.1*gi
			rv[i] = 0.95*rv[i] + 0.05*gi*gi
			t := float64(step)
			rw[i] -= 0.01 * rm[i] / (1 - math.Pow(0.9, t)) / (math.Sqrt(rv[i]/(1-math.Pow(0.95, t))) + 1e-8)
		}
		s.Apply(w, m, v, g)
	}
	for i := range w {
		if math.Abs(float64(w[i])-rw[i]) > 1e-5 {
			t.Fatalf("weight %d after 5 steps: got %g, want %g", i, w[i], rw[i])
		}
	}
}
