//go:build goexperiment.simd && amd64

package op

import (
	"math"
	"simd/archsimd"
)

// simd says that the processor has AVX2 and FMA, which the vector forms need.
var simd = archsimd.X86.AVX2() && archsimd.X86.FMA()

type vec = archsimd.Float32x8

const lanes = 8

func load(x []float32) vec           { return archsimd.LoadFloat32x8Slice(x) }
func splat(x float32) vec            { return archsimd.BroadcastFloat32x8(x) }
func horner(x, p, c vec) vec         { return p.MulAdd(x, c) }
func lanesOf(x vec) archsimd.Int32x8 { return x.AsInt32x8() }

// reduce adds the lanes, always in the same order.
func reduce(v vec) float32 {
	var a [lanes]float32
	v.Store(&a)
	return ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]))
}

func maxOf32(x []float32) float32 {
	m := splat(float32(math.Inf(-1)))
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		m = m.Max(load(x[i:]))
	}
	var a [lanes]float32
	m.Store(&a)
	out := a[0]
	for _, v := range a[1:] {
		out = max(out, v)
	}
	for _, v := range x[i:] {
		out = max(out, v)
	}
	return out
}

// exp is e^x within 2 units in the last place for x <= 88; below -87 it is 0
// or the smallest normal numbers. x = n*ln2 + r with |r| <= ln2/2, and a
// polynomial of degree 6 in r (Cephes, expf).
func exp(x vec) vec {
	x = x.Max(splat(-87.33654)).Min(splat(88.3))
	n := x.Mul(splat(1.44269504088896341)).RoundToEven()
	r := n.MulAdd(splat(-0.693359375), x)
	r = n.MulAdd(splat(2.12194440e-4), r)
	p := splat(1.9875691500e-4)
	p = horner(r, p, splat(1.3981999507e-3))
	p = horner(r, p, splat(8.3334519073e-3))
	p = horner(r, p, splat(4.1665795894e-2))
	p = horner(r, p, splat(1.6666665459e-1))
	p = horner(r, p, splat(5.0000001201e-1))
	p = p.MulAdd(r.Mul(r), r).Add(splat(1))
	return lanesOf(p).Add(n.ConvertToInt32().ShiftAllLeft(23)).AsFloat32x8()
}

// erf is the error function within 4e-7 of the exact value: an odd rational
// approximation on [-4, 4] (Eigen, generic_fast_erf_float).
func erf(x vec) vec {
	x = x.Max(splat(-4)).Min(splat(4))
	s := x.Mul(x)
	p := splat(-2.72614225801306e-10)
	p = horner(s, p, splat(2.77068142495902e-08))
	p = horner(s, p, splat(-2.10102402082508e-06))
	p = horner(s, p, splat(-5.69250639462346e-05))
	p = horner(s, p, splat(-7.34990630326855e-04))
	p = horner(s, p, splat(-2.95459980854025e-03))
	p = horner(s, p, splat(-1.60960333262415e-02))
	q := splat(-1.45660718464996e-05)
	q = horner(s, q, splat(-2.13374055278905e-04))
	q = horner(s, q, splat(-1.68282697438203e-03))
	q = horner(s, q, splat(-7.37332916720468e-03))
	q = horner(s, q, splat(-1.42647390514189e-02))
	return p.Mul(x).Div(q)
}

// tail runs a vector function over the last elements of x, fewer than a
// vector, padded with pad.
func tail(x []float32, pad float32, f func(vec) vec, dst []float32) {
	var a [lanes]float32
	for i := range a {
		a[i] = pad
	}
	copy(a[:], x)
	f(archsimd.LoadFloat32x8(&a)).Store(&a)
	copy(dst, a[:len(x)])
}

func expSum32(dst, x []float32, shift float32) float32 {
	dst = dst[:len(x)]
	sh, acc := splat(shift), splat(0)
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		e := exp(load(x[i:]).Sub(sh))
		e.StoreSlice(dst[i:])
		acc = acc.Add(e)
	}
	total := reduce(acc)
	if i < len(x) {
		tail(x[i:], shift, func(v vec) vec { return exp(v.Sub(sh)) }, dst[i:])
		for _, v := range dst[i:] {
			total += v
		}
	}
	return total
}

func sum32(x []float32) float32 {
	acc := splat(0)
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		acc = acc.Add(load(x[i:]))
	}
	total := reduce(acc)
	for _, v := range x[i:] {
		total += v
	}
	return total
}

func sumSquares32(x []float32, shift float32) float32 {
	acc, sh := splat(0), splat(shift)
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		d := load(x[i:]).Sub(sh)
		acc = d.MulAdd(d, acc)
	}
	total := reduce(acc)
	for _, v := range x[i:] {
		total += (v - shift) * (v - shift)
	}
	return total
}

func dot32(x, y []float32) float32 {
	y = y[:len(x)]
	// Four sums at a time do not wait for one another.
	a, b, c, d := splat(0), splat(0), splat(0), splat(0)
	i := 0
	for ; i+4*lanes <= len(x); i += 4 * lanes {
		u, v := (*[4 * lanes]float32)(x[i:]), (*[4 * lanes]float32)(y[i:])
		a = part(u, 0).MulAdd(part(v, 0), a)
		b = part(u, 1).MulAdd(part(v, 1), b)
		c = part(u, 2).MulAdd(part(v, 2), c)
		d = part(u, 3).MulAdd(part(v, 3), d)
	}
	for ; i+lanes <= len(x); i += lanes {
		a = load(x[i:]).MulAdd(load(y[i:]), a)
	}
	total := reduce(a.Add(c).Add(b.Add(d)))
	for ; i < len(x); i++ {
		total += x[i] * y[i]
	}
	return total
}

// part is one of the vectors of four.
func part(x *[4 * lanes]float32, i int) vec {
	return archsimd.LoadFloat32x8((*[lanes]float32)(x[i*lanes:]))
}

func scale32(x []float32, a float32) {
	f := splat(a)
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		load(x[i:]).Mul(f).StoreSlice(x[i:])
	}
	for ; i < len(x); i++ {
		x[i] *= a
	}
}

func axpy32(y []float32, a float32, x []float32) {
	y = y[:len(x)]
	f := splat(a)
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		load(x[i:]).MulAdd(f, load(y[i:])).StoreSlice(y[i:])
	}
	for ; i < len(x); i++ {
		y[i] += a * x[i]
	}
}

func add32(dst, x, y []float32) {
	dst, y = dst[:len(x)], y[:len(x)]
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		load(x[i:]).Add(load(y[i:])).StoreSlice(dst[i:])
	}
	for ; i < len(x); i++ {
		dst[i] = x[i] + y[i]
	}
}

func affine32(dst, x []float32, mean, rstd float32, g, b []float32) {
	dst, g, b = dst[:len(x)], g[:len(x)], b[:len(x)]
	m, r := splat(mean), splat(rstd)
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		load(x[i:]).Sub(m).Mul(r).MulAdd(load(g[i:]), load(b[i:])).StoreSlice(dst[i:])
	}
	for ; i < len(x); i++ {
		dst[i] = (x[i]-mean)*rstd*g[i] + b[i]
	}
}

func normTerms32(hat, dhat, pg, x, dy, g []float32, mean, rstd float32) {
	n := len(x)
	hat, dhat, pg, dy, g = hat[:n], dhat[:n], pg[:n], dy[:n], g[:n]
	m, r := splat(mean), splat(rstd)
	i := 0
	for ; i+lanes <= n; i += lanes {
		h, d := load(x[i:]).Sub(m).Mul(r), load(dy[i:])
		h.StoreSlice(hat[i:])
		d.Mul(load(g[i:])).StoreSlice(dhat[i:])
		d.MulAdd(h, load(pg[i:])).StoreSlice(pg[i:])
	}
	for ; i < n; i++ {
		hat[i] = (x[i] - mean) * rstd
		dhat[i] = dy[i] * g[i]
		pg[i] += dy[i] * hat[i]
	}
}

func normGrad32(dx, dhat, hat []float32, m1, m2, rstd float32) {
	n := len(dx)
	dhat, hat = dhat[:n], hat[:n]
	a, b, r := splat(m1), splat(-m2), splat(rstd)
	i := 0
	for ; i+lanes <= n; i += lanes {
		load(hat[i:]).MulAdd(b, load(dhat[i:]).Sub(a)).Mul(r).StoreSlice(dx[i:])
	}
	for ; i < n; i++ {
		dx[i] = (dhat[i] - m1 - hat[i]*m2) * rstd
	}
}

func softmaxGrad32(dp, p []float32, delta, scale float32) {
	dp = dp[:len(p)]
	d, s := splat(delta), splat(scale)
	i := 0
	for ; i+lanes <= len(p); i += lanes {
		load(dp[i:]).Sub(d).Mul(load(p[i:])).Mul(s).StoreSlice(dp[i:])
	}
	for ; i < len(p); i++ {
		dp[i] = p[i] * (dp[i] - delta) * scale
	}
}

// phi is the standard normal distribution function times two.
func twicePhi(x vec) vec { return erf(x.Mul(splat(math.Sqrt2 / 2))).Add(splat(1)) }

func geluOf(x vec) vec { return x.Mul(splat(0.5)).Mul(twicePhi(x)) }

func gelu32(dst, x []float32) {
	dst = dst[:len(x)]
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		geluOf(load(x[i:])).StoreSlice(dst[i:])
	}
	if i < len(x) {
		tail(x[i:], 0, geluOf, dst[i:])
	}
}

func geluSlope(x vec) vec {
	density := exp(x.Mul(x).Mul(splat(-0.5))).Mul(splat(1 / (math.Sqrt2 * 1.7724538509055160)))
	return x.MulAdd(density, twicePhi(x).Mul(splat(0.5)))
}

func geluGrad32(dst, x, dy []float32) {
	dst, dy = dst[:len(x)], dy[:len(x)]
	i := 0
	for ; i+lanes <= len(x); i += lanes {
		geluSlope(load(x[i:])).Mul(load(dy[i:])).StoreSlice(dst[i:])
	}
	if i < len(x) {
		var slope [lanes]float32
		tail(x[i:], 0, geluSlope, slope[:])
		for j := i; j < len(x); j++ {
			dst[j] = slope[j-i] * dy[j]
		}
	}
}

// adamw32 handles the elements that fill whole vectors and returns how many.
func adamw32(w, m, v, g []float32, s adamScalars) int {
	m, v, g = m[:len(w)], v[:len(w)], g[:len(w)]
	gs, b1, b2 := splat(s.gscale), splat(s.beta1), splat(s.beta2)
	c1, c2 := splat(1-s.beta1), splat(1-s.beta2)
	root, eps, shrink, step := splat(s.rootCorrection), splat(s.eps), splat(s.shrink), splat(s.step)
	i := 0
	for ; i+lanes <= len(w); i += lanes {
		gi := load(g[i:]).Mul(gs)
		mi := load(m[i:]).Mul(b1).Add(c1.Mul(gi))
		vi := load(v[i:]).Mul(b2).Add(c2.Mul(gi).Mul(gi))
		mi.StoreSlice(m[i:])
		vi.StoreSlice(v[i:])
		denom := vi.Sqrt().Mul(root).Add(eps)
		load(w[i:]).Mul(shrink).Sub(step.Mul(mi).Div(denom)).StoreSlice(w[i:])
	}
	return i
}
