package blas

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func random[T Float](r *rand.Rand, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = T(r.NormFloat64())
	}
	return out
}

func TestGemm(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range [][3]int{{1, 1, 1}, {3, 5, 7}, {17, 33, 9}, {700, 30, 20}, {20, 1500, 11}, {600, 1100, 3}} {
		for _, tr := range [][2]Transposition{{AsIs, AsIs}, {AsIs, Transposed}, {Transposed, AsIs}, {Transposed, Transposed}} {
			t.Run(fmt.Sprint(s, tr), func(t *testing.T) {
				check[float32](t, r, s[0], s[1], s[2], tr[0], tr[1], 1e-4)
				check[float64](t, r, s[0], s[1], s[2], tr[0], tr[1], 1e-12)
			})
		}
	}
}

func check[T Float](t *testing.T, r *rand.Rand, m, n, k int, ta, tb Transposition, tol float64) {
	t.Helper()
	shape := func(rows, cols int, tr Transposition) Matrix[T] {
		if tr {
			rows, cols = cols, rows
		}
		return Matrix[T]{rows, cols, cols + 3, random[T](r, rows*(cols+3))}
	}
	a, b := shape(m, k, ta), shape(k, n, tb)
	c := Matrix[T]{m, n, n + 1, random[T](r, m*(n+1))}
	before := append([]T(nil), c.Data...)
	Gemm(ta, tb, 0.5, a, b, 2, c)
	at := func(x Matrix[T], tr Transposition, i, j int) float64 {
		if tr {
			i, j = j, i
		}
		return float64(x.Data[i*x.Stride+j])
	}
	for i := range m {
		for j := range n + 1 {
			want := float64(before[i*c.Stride+j])
			if j < n {
				sum := 0.0
				for l := range k {
					sum += at(a, ta, i, l) * at(b, tb, l, j)
				}
				want = 0.5*sum + 2*want
			}
			if got := float64(c.Data[i*c.Stride+j]); math.Abs(got-want) > tol*(1+math.Abs(want)) {
				t.Fatalf("element (%d, %d): got %g, want %g", i, j, got, want)
			}
		}
	}
}

func TestGemmSameBitsForAnyThreads(t *testing.T) {
	defer SetThreads(0)
	r := rand.New(rand.NewPCG(3, 4))
	a, b := Dense(1100, 70, random[float32](r, 1100*70)), Dense(1300, 70, random[float32](r, 1300*70))
	var first []float32
	for _, n := range []int{1, 2, 3, 8} {
		SetThreads(n)
		c := Dense(1100, 1300, make([]float32, 1100*1300))
		Gemm(AsIs, Transposed, 1, a, b, 0, c)
		if first == nil {
			first = c.Data
		}
		for i := range first {
			if first[i] != c.Data[i] {
				t.Fatalf("%d threads: element %d is %g, with one thread %g", n, i, c.Data[i], first[i])
			}
		}
	}
}

func TestParallelPanics(t *testing.T) {
	defer func() {
		if recover() != "seven" {
			t.Error("the panic of a part did not reach the caller")
		}
	}()
	Parallel(20, func(i int) {
		if i == 7 {
			panic("seven")
		}
	})
}

func BenchmarkGemm(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, s := range [][3]int{{2048, 512, 512}, {2048, 2048, 512}, {2048, 512, 2048}, {512, 50304, 512}, {50304, 512, 512}, {512, 512, 2048}, {128, 1024, 64}} {
		m, n, k := s[0], s[1], s[2]
		x, w, y := Dense(m, k, random[float32](r, m*k)), Dense(n, k, random[float32](r, n*k)), Dense(m, n, make([]float32, m*n))
		b.Run(fmt.Sprintf("%dx%dx%d", m, n, k), func(b *testing.B) {
			for b.Loop() {
				Gemm(AsIs, Transposed, 1, x, w, 0, y)
			}
			b.ReportMetric(2*float64(m)*float64(n)*float64(k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}

// BenchmarkLibrary times 2048^3 by OpenBLAS's own threads beside Gemm's tiles on
// as many: the rate that other benchmarks compare with is the machine's.
func BenchmarkLibrary(b *testing.B) {
	l := open()
	if l.sgemmPtr == 0 {
		b.Skip("no OpenBLAS on this machine")
	}
	const n = 2048
	r := rand.New(rand.NewPCG(7, 8))
	x, y, z := Dense(n, n, random[float32](r, n*n)), Dense(n, n, random[float32](r, n*n)), Dense(n, n, make([]float32, n*n))
	rate := func(b *testing.B) {
		b.ReportMetric(2*n*n*n*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
	}
	b.Run("its own threads", func(b *testing.B) {
		l.setThreads(Threads())
		defer l.setThreads(1)
		for b.Loop() {
			l.sgemm(AsIs, AsIs, n, n, n, 1, x.Data, n, y.Data, n, 0, z.Data, n)
		}
		rate(b)
	})
	b.Run("Gemm", func(b *testing.B) {
		for b.Loop() {
			Gemm(AsIs, AsIs, 1, x, y, 0, z)
		}
		rate(b)
	})
}
