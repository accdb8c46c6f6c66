package absorb

import (
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// TestLeading compares the leading eigenvalues with those of a whole
// decomposition and checks that the vectors are eigenvectors, of length 1 and
// orthogonal, for spectra that fall slowly, fast, to nothing and in steps.
func TestLeading(t *testing.T) {
	for _, c := range []struct {
		name     string
		spectrum func(i int) float64
	}{
		{"slow", func(i int) float64 { return 1 / float64(1+i) }},
		{"fast", func(i int) float64 { return math.Pow(0.5, float64(i)) }},
		{"rank 10", func(i int) float64 { return max(0, float64(10-i)) }},
		{"equal", func(i int) float64 { return 1 }},
		{"pairs", func(i int) float64 { return 1 / float64(1+i/2) }},
		{"nothing", func(i int) float64 { return 0 }},
	} {
		for _, size := range [][2]int{{20, 5}, {150, 20}, {150, 1}, {101, 40}} {
			n, k := size[0], size[1]
			a := withSpectrum(n, c.spectrum)
			values, vectors, err := leading(append([]float64(nil), a...), n, k)
			if err != nil {
				t.Fatal(err)
			}
			most := max(c.spectrum(0), 1e-300)
			for j, v := range values {
				if d := math.Abs(v-c.spectrum(j)) / most; d > 1e-12 {
					t.Errorf("%s, %d of %d: eigenvalue %d is %g, expected %g", c.name, k, n, j, v, c.spectrum(j))
				}
			}
			if r := residual(a, n, values, vectors) / most; r > 1e-11 {
				t.Errorf("%s, %d of %d: residual %g", c.name, k, n, r)
			}
			for i := range k {
				for j := range k {
					dot, want := 0.0, 0.0
					if i == j {
						want = 1
					}
					for r := range n {
						dot += vectors[r*k+i] * vectors[r*k+j]
					}
					if math.Abs(dot-want) > 1e-11 {
						t.Errorf("%s, %d of %d: vectors %d and %d have product %g", c.name, k, n, i, j, dot)
					}
				}
			}
		}
	}
}

// withSpectrum is a symmetric matrix with given eigenvalues in random
// directions.
func withSpectrum(n int, spectrum func(i int) float64) []float64 {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	x := mat.NewDense(n, n, nil)
	for i := range n {
		for j := range n {
			x.Set(i, j, r.NormFloat64())
		}
	}
	var qr mat.QR
	qr.Factorize(x)
	var q, d, a mat.Dense
	qr.QTo(&q)
	d.CloneFrom(&q)
	for j := range n {
		for i := range n {
			d.Set(i, j, q.At(i, j)*spectrum(j))
		}
	}
	a.Mul(&d, q.T())
	for i := range n {
		for j := range i {
			a.Set(i, j, a.At(j, i))
		}
	}
	return a.RawMatrix().Data
}

func BenchmarkLeading(b *testing.B) {
	const n, k = 769, 64
	a := withSpectrum(n, func(i int) float64 { return 1 / float64(1+i) })
	for b.Loop() {
		if _, _, err := leading(append([]float64(nil), a...), n, k); err != nil {
			b.Fatal(err)
		}
	}
}
