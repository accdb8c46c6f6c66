//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// matrix is test data on the host and its rounding to the device's type.
type matrix struct {
	v []float32
	t Type
}

func (m matrix) size() int64 { return int64(len(m.v)) * m.t.Size() }

func round(v []float32, t Type) {
	if t == BFloat16 {
		for i, x := range v {
			v[i] = math.Float32frombits(uint32(toBF16(x)) << 16)
		}
	}
}

func toBF16(x float32) uint16 {
	b := math.Float32bits(x)
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

func (m matrix) upload(p Ptr) error {
	if m.t == Float32 {
		return Upload(p, m.v)
	}
	b := make([]uint16, len(m.v))
	for i, x := range m.v {
		b[i] = toBF16(x)
	}
	return Upload(p, b)
}

func (m matrix) download(p Ptr) error {
	if m.t == Float32 {
		return Download(m.v, p)
	}
	b := make([]uint16, len(m.v))
	err := Download(b, p)
	for i, x := range b {
		m.v[i] = math.Float32frombits(uint32(x) << 16)
	}
	return err
}

// reference computes a product in float64.
func reference(p Product, a, b, c, bias []float32) []float64 {
	at := func(x []float32, i, j, rows, cols int, trans bool) float64 {
		if trans {
			return float64(x[j*rows+i])
		}
		return float64(x[i*cols+j])
	}
	d := make([]float64, p.M*p.N)
	for i := range p.M {
		for j := range p.N {
			s := 0.0
			for k := range p.K {
				s += at(a, i, k, p.M, p.K, p.TransA) * at(b, k, j, p.K, p.N, p.TransB)
			}
			if p.Add {
				s += float64(c[i*p.N+j])
			}
			if p.Vector == AddBias {
				s += float64(bias[j])
			}
			d[i*p.N+j] = s
		}
	}
	return d
}

// deviation is ||got - want|| / ||want||.
func deviation(got []float32, want []float64) float64 {
	num, den := 0.0, 0.0
	for i := range got {
		num += (float64(got[i]) - want[i]) * (float64(got[i]) - want[i])
		den += want[i] * want[i]
	}
	return math.Sqrt(num / den)
}

func products() []Product {
	base := Product{M: 136, N: 72, K: 264}
	var list []Product
	for _, in := range []Type{BFloat16, Float32} {
		for _, out := range []Type{BFloat16, Float32} {
			if in == Float32 && out == BFloat16 {
				continue
			}
			for trans := range 4 {
				p := base
				p.In, p.Out, p.TransA, p.TransB = in, out, trans&1 != 0, trans&2 != 0
				list = append(list, p)
				p.Add = true
				list = append(list, p)
			}
			p := base
			p.In, p.Out, p.TransB, p.Vector, p.VectorType = in, out, true, AddBias, out
			list = append(list, p)
		}
	}
	return list
}

func TestProducts(t *testing.T) {
	cache, _ := testCache(t)
	do(t, func(info Info, s Stream) error {
		blas, err := NewBlas(info, cache)
		if err != nil {
			return err
		}
		defer blas.Close()
		for _, p := range products() {
			if err := checkProduct(t, blas, s, p); err != nil {
				t.Errorf("%v: %v", p, err)
			}
		}
		return nil
	})
}

func checkProduct(t *testing.T, blas *Blas, s Stream, p Product) error {
	r := rand.New(rand.NewPCG(uint64(p.M), uint64(p.K)))
	a, b := matrix{randoms(r, p.M*p.K), p.In}, matrix{randoms(r, p.K*p.N), p.In}
	c, bias := matrix{randoms(r, p.M*p.N), p.Out}, matrix{randoms(r, max(p.M, p.N)), p.VectorType}
	for _, m := range []matrix{a, b, c, bias} {
		round(m.v, m.t)
	}
	const span = 1 << 20
	mem, free := arena(t, 5*span+WorkspaceSize)
	defer free()
	at := func(i int) Ptr { return mem.At(int64(i)*span, span) }
	o := Operands{A: at(0), B: at(1), C: at(2), D: at(3), Vector: at(4), Workspace: mem.At(5*span, WorkspaceSize)}
	poison := matrix{make([]float32, p.M*p.N), p.Out}
	for i := range poison.v {
		poison.v[i] = float32(math.NaN())
	}
	m, err := blas.Plan(s, p)
	if err != nil {
		return err
	}
	defer m.Close()
	var first []float32
	for round := range 2 {
		if err := errors.Join(a.upload(o.A), b.upload(o.B), c.upload(o.C), bias.upload(o.Vector), poison.upload(o.D)); err != nil {
			return err
		}
		d := matrix{make([]float32, p.M*p.N), p.Out}
		if err := errors.Join(m.Run(s, o), s.Synchronize(), d.download(o.D)); err != nil {
			return err
		}
		want := reference(p, a.v, b.v, c.v, bias.v)
		limit := map[Type]float64{Float32: 2e-6, BFloat16: 4e-3}[p.Out]
		if dev := deviation(d.v, want); !(dev < limit) {
			return fmt.Errorf("deviates by %.3g, at most %.3g is expected", dev, limit)
		}
		if round == 0 {
			first = d.v
			continue
		}
		for i := range first {
			if first[i] != d.v[i] {
				return fmt.Errorf("element %d differs between two runs: %v, %v", i, first[i], d.v[i])
			}
		}
	}
	return nil
}

// TestPlanKeepsItsAlgorithm: a second plan takes what the first has left.
func TestPlanKeepsItsAlgorithm(t *testing.T) {
	cache, _ := testCache(t)
	do(t, func(info Info, s Stream) error {
		blas, err := NewBlas(info, cache)
		if err != nil {
			return err
		}
		defer blas.Close()
		p := Product{M: 1024, N: 768, K: 4096, TransA: true, In: BFloat16, Out: Float32}
		var plans [2]*Matmul
		for i := range plans {
			if plans[i], err = blas.Plan(s, p); err != nil {
				return err
			}
			defer plans[i].Close()
		}
		if plans[0].algo != plans[1].algo {
			t.Errorf("two algorithms for one product: %v, %v", plans[0].algo, plans[1].algo)
		}
		return nil
	})
}

// BenchmarkProduct times the products of a Pythia-160M step over 24,576 tokens.
func BenchmarkProduct(b *testing.B) {
	const n = 24576
	shapes := []Product{
		{M: n, N: 2304, K: 768, TransB: true, In: BFloat16, Out: BFloat16},
		{M: n, N: 768, K: 768, TransB: true, In: BFloat16, Out: BFloat16},
		{M: n, N: 3072, K: 768, TransB: true, In: BFloat16, Out: BFloat16},
		{M: n, N: 3072, K: 768, TransB: true, In: BFloat16, Out: BFloat16, Vector: AddBias, VectorType: BFloat16},
		{M: n, N: 768, K: 3072, TransB: true, In: BFloat16, Out: BFloat16},
		{M: n, N: 768, K: 3072, TransB: true, In: BFloat16, Out: BFloat16, Add: true},
		{M: n, N: 768, K: 3072, In: BFloat16, Out: BFloat16},
		{M: 3072, N: 768, K: n, TransA: true, In: BFloat16, Out: Float32, Add: true},
		{M: 3072, N: 768, K: n, TransA: true, In: BFloat16, Out: Float32},
		{M: 2304, N: 768, K: n, TransA: true, In: BFloat16, Out: Float32, Add: true},
		{M: 768, N: 768, K: n, TransA: true, In: BFloat16, Out: Float32, Add: true},
		{M: 4096, N: 50304, K: 768, TransB: true, In: BFloat16, Out: BFloat16},
		{M: 4096, N: 768, K: 50304, In: BFloat16, Out: BFloat16},
		{M: 50304, N: 768, K: 4096, TransA: true, In: BFloat16, Out: Float32, Add: true},
		{M: 8192, N: 8192, K: 8192, In: BFloat16, Out: BFloat16},
		{M: n, N: 768, K: 768, TransB: true, In: Float32, Out: Float32},
	}
	for _, p := range shapes {
		b.Run(p.String(), func(b *testing.B) { benchmarkProduct(b, p) })
	}
}

func benchmarkProduct(b *testing.B, p Product) {
	do(b, func(info Info, s Stream) error {
		blas, err := NewBlas(info, OpenCache("matmul", nil))
		if err != nil {
			return err
		}
		defer blas.Close()
		m, err := blas.Plan(s, p)
		if err != nil {
			return err
		}
		defer m.Close()
		o, mem, err := m.scratch(s)
		if err != nil {
			return err
		}
		defer mem.Free()
		ms, err := m.time(s, o, &m.algo)
		if err != nil {
			return err
		}
		for b.Loop() {
			if ms, err = m.time(s, o, &m.algo); err != nil {
				return err
			}
		}
		b.ReportMetric(p.Operations()/ms[0]/1e9, "TFLOP/s")
		b.ReportMetric(ms[0]*1000, "us")
		return nil
	})
}
