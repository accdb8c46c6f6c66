package op

import (
	"math"

	"mlkv/internal/blas"
)

// The functions here are the inner loops of the kernels. Each has a scalar form
// that is right for both float types; the float32 form is taken over by vector
// instructions where the build and the processor have them (vec_simd.go).

// maxOf is the greatest element of x, -Inf if there is none.
func maxOf[T blas.Float](x []T) T {
	if f, ok := any(x).([]float32); ok && simd {
		return T(maxOf32(f))
	}
	m := T(math.Inf(-1))
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

// expSum sets dst[i] = exp(x[i]-shift) and returns the sum. dst may be x.
func expSum[T blas.Float](dst, x []T, shift T) T {
	if f, ok := any(x).([]float32); ok && simd {
		return T(expSum32(any(dst).([]float32), f, float32(shift)))
	}
	var sum T
	for i, v := range x {
		e := T(math.Exp(float64(v - shift)))
		dst[i] = e
		sum += e
	}
	return sum
}

// sum is the sum of x.
func sum[T blas.Float](x []T) T {
	if f, ok := any(x).([]float32); ok && simd {
		return T(sum32(f))
	}
	var s T
	for _, v := range x {
		s += v
	}
	return s
}

// sumSquares is the sum of (x[i]-shift)^2.
func sumSquares[T blas.Float](x []T, shift T) T {
	if f, ok := any(x).([]float32); ok && simd {
		return T(sumSquares32(f, float32(shift)))
	}
	var s T
	for _, v := range x {
		s += (v - shift) * (v - shift)
	}
	return s
}

// dot is the sum of x[i]*y[i].
func dot[T blas.Float](x, y []T) T {
	if f, ok := any(x).([]float32); ok && simd {
		return T(dot32(f, any(y).([]float32)))
	}
	var s T
	for i, v := range x {
		s += v * y[i]
	}
	return s
}

// scale multiplies x by a.
func scale[T blas.Float](x []T, a T) {
	if f, ok := any(x).([]float32); ok && simd {
		scale32(f, float32(a))
		return
	}
	for i := range x {
		x[i] *= a
	}
}

// axpy adds a*x to y.
func axpy[T blas.Float](y []T, a T, x []T) {
	if f, ok := any(x).([]float32); ok && simd {
		axpy32(any(y).([]float32), float32(a), f)
		return
	}
	for i, v := range x {
		y[i] += a * v
	}
}

// add sets dst = x + y.
func add[T blas.Float](dst, x, y []T) {
	if f, ok := any(x).([]float32); ok && simd {
		add32(any(dst).([]float32), f, any(y).([]float32))
		return
	}
	for i, v := range x {
		dst[i] = v + y[i]
	}
}

// affine sets dst[i] = (x[i]-mean)*rstd*g[i] + b[i].
func affine[T blas.Float](dst, x []T, mean, rstd T, g, b []T) {
	if f, ok := any(x).([]float32); ok && simd {
		affine32(any(dst).([]float32), f, float32(mean), float32(rstd), any(g).([]float32), any(b).([]float32))
		return
	}
	for i, v := range x {
		dst[i] = (v-mean)*rstd*g[i] + b[i]
	}
}

// normTerms sets hat = (x-mean)*rstd and dhat = dy*g, and adds dy*hat to pg.
func normTerms[T blas.Float](hat, dhat, pg, x, dy, g []T, mean, rstd T) {
	if f, ok := any(x).([]float32); ok && simd {
		normTerms32(any(hat).([]float32), any(dhat).([]float32), any(pg).([]float32), f,
			any(dy).([]float32), any(g).([]float32), float32(mean), float32(rstd))
		return
	}
	for i, v := range x {
		hat[i] = (v - mean) * rstd
		dhat[i] = dy[i] * g[i]
		pg[i] += dy[i] * hat[i]
	}
}

// normGrad sets dx = (dhat - m1 - hat*m2) * rstd.
func normGrad[T blas.Float](dx, dhat, hat []T, m1, m2, rstd T) {
	if f, ok := any(dx).([]float32); ok && simd {
		normGrad32(f, any(dhat).([]float32), any(hat).([]float32), float32(m1), float32(m2), float32(rstd))
		return
	}
	for i := range dx {
		dx[i] = (dhat[i] - m1 - hat[i]*m2) * rstd
	}
}

// softmaxGrad sets dp[i] = p[i]*(dp[i]-delta)*scale.
func softmaxGrad[T blas.Float](dp, p []T, delta, scale T) {
	if f, ok := any(p).([]float32); ok && simd {
		softmaxGrad32(any(dp).([]float32), f, float32(delta), float32(scale))
		return
	}
	for i, v := range p {
		dp[i] = v * (dp[i] - delta) * scale
	}
}

// gelu sets dst[i] = x[i]*Phi(x[i]), the exact GELU (arXiv 1606.08415).
func gelu[T blas.Float](dst, x []T) {
	if f, ok := any(x).([]float32); ok && simd {
		gelu32(any(dst).([]float32), f)
		return
	}
	for i, v := range x {
		f := float64(v)
		dst[i] = T(0.5 * f * (1 + math.Erf(f/math.Sqrt2)))
	}
}

// geluGrad sets dst[i] = dy[i]*(Phi(x[i]) + x[i]*phi(x[i])).
func geluGrad[T blas.Float](dst, x, dy []T) {
	if f, ok := any(x).([]float32); ok && simd {
		geluGrad32(any(dst).([]float32), f, any(dy).([]float32))
		return
	}
	for i, v := range x {
		f := float64(v)
		d := 0.5*(1+math.Erf(f/math.Sqrt2)) + f*math.Exp(-f*f/2)/math.Sqrt(2*math.Pi)
		dst[i] = T(d) * dy[i]
	}
}

// adamw applies one AdamW step to w, with gradient g times gscale, moments m
// and v, decoupled decay and the corrected step size.
func adamw(w, m, v, g []float32, s adamScalars) {
	n := 0
	if simd {
		n = adamw32(w, m, v, g, s)
	}
	for i := n; i < len(w); i++ {
		gi := g[i] * s.gscale
		m[i] = s.beta1*m[i] + (1-s.beta1)*gi
		v[i] = s.beta2*v[i] + (1-s.beta2)*gi*gi
		denom := float32(math.Sqrt(float64(v[i])))*s.rootCorrection + s.eps
		w[i] = w[i]*s.shrink - s.step*m[i]/denom
	}
}

// adamScalars are the numbers that one AdamW step shares over all elements.
type adamScalars struct {
	gscale         float32 // factor on the gradient: clipping and averaging
	beta1, beta2   float32
	eps            float32
	shrink         float32 // 1 - rate*decay
	step           float32 // rate / (1-beta1^t)
	rootCorrection float32 // 1 / sqrt(1-beta2^t)
}
