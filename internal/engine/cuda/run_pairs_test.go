//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
)

// roundBF16 is the nearest bf16 number, of two the even one.
func roundBF16(x float32) float32 {
	b := math.Float32bits(x)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}

// pairsOf is what split_pairs writes, a bf16 an element.
func pairsOf(x []float32, rows, cols, stride int, highFirst bool) []float32 {
	out := make([]float32, 2*rows*cols)
	for r := range rows {
		line := out[r*2*cols:]
		high, low := line[cols:], line
		if highFirst {
			high, low = line, line[cols:]
		}
		for c := range cols {
			v := x[r*stride+c]
			high[c] = roundBF16(v)
			low[c] = roundBF16(v - high[c])
		}
	}
	return out
}

// multiplyHost adds p's terms in float64.
func multiplyHost(p gpu.Product, a, b, c, bias []float32) []float32 {
	or := func(given, plain int) int {
		if given != 0 {
			return given
		}
		return plain
	}
	d := make([]float32, p.M*or(p.StrideD, p.N))
	for i := range p.M {
		for j := range p.N {
			s := 0.0
			for k := range p.K {
				s += float64(a[i*or(p.StrideA, p.K)+k]) * float64(b[j*or(p.StrideB, p.K)+k])
			}
			if p.Add {
				s += float64(c[i*or(p.StrideC, p.N)+j])
			}
			if p.Vector == gpu.AddBias {
				s += float64(bias[j])
			}
			d[i*or(p.StrideD, p.N)+j] = float32(s)
		}
	}
	return d
}

// TestPairProducts: the products that a product is made of give its result, with
// rows apart, with a term and a bias and without.
func TestPairProducts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	numbers := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(r.NormFloat64() * math.Exp(2*r.NormFloat64()))
		}
		return v
	}
	base := gpu.Product{M: 5, N: 7, K: 16, TransB: true, In: gpu.Float32, Out: gpu.Float32, Whole: true}
	apart := base
	apart.StrideA, apart.StrideD = 40, 9
	full := apart
	full.Add, full.StrideC, full.Vector, full.VectorType = true, 11, gpu.AddBias, gpu.Float32
	for _, p := range []gpu.Product{base, apart, full} {
		lines := max(p.StrideA, p.K)
		a, b, c, bias := numbers(p.M*lines), numbers(p.N*p.K), numbers(p.M*11), numbers(p.N)
		want := multiplyHost(p, a, b, c, bias)
		small, large := pairProducts(p)
		if small.In != gpu.BFloat16 || large.In != gpu.BFloat16 || !small.Whole || !large.Whole {
			t.Errorf("%v: made of %+v and %+v", p, small, large)
		}
		left, right := pairsOf(a, p.M, p.K, lines, false), pairsOf(b, p.N, p.K, p.K, true)
		got := multiplyHost(small, left, right, c, bias)
		got = multiplyHost(large, left[p.K:], right, got, nil)
		worst, most := 0.0, 0.0
		for i := range want {
			worst, most = max(worst, math.Abs(float64(got[i]-want[i]))), max(most, math.Abs(float64(want[i])))
		}
		t.Logf("%v: deviates by %.2g of %.3g", p, worst, most)
		if !(worst <= 2e-5*most) {
			t.Errorf("%v: deviates by %g of %g", p, worst, most)
		}
	}
}

// TestEveryProductOfAScorerTakesPairs: its right operand is a matrix of weights,
// which lies on the device as pairs, and its left one has room for them. It needs
// no GPU.
func TestEveryProductOfAScorerTakesPairs(t *testing.T) {
	const length = 64
	for name, cfg := range gpuModels(t) {
		p := compileFor(t, cfg, graph.Options{Rows: 1, Length: length, Output: graph.Scores, Picked: length}, "apart")
		needScratch(p, sizes{4}, absentInfo)
		needPairs(p)
		x := &executor{device: &device{elem: gpu.Float32, pairs: true}, p: p, segments: &segments{}}
		for _, o := range p.ops {
			products := x.products(o)
			if len(products) == 0 {
				continue
			}
			left, right, room := o.in[0], o.in[1], o.temp[len(o.temp)-1]
			if right.role != weight || right.rows == 1 || !right.dense() {
				t.Errorf("%s: %v multiplies with %v, which is no matrix of weights", name, o, right)
			}
			if room.rows != left.rows || room.cols != left.cols || room.elem != float {
				t.Errorf("%s: %v has %v for the pairs of %v", name, o, room, left)
			}
			for _, q := range products {
				if q.In != gpu.BFloat16 || q.Out != gpu.Float32 || q.TransA || !q.TransB || !q.Whole {
					t.Errorf("%s: %v takes %+v", name, o, q)
				}
			}
		}
		if !slices.Contains(x.variants(p.users(p.tokens)[0]), x.pairsVariant()) {
			t.Errorf("%s: pairs.cu is not loaded", name)
		}
	}
}
