//go:build !(goexperiment.simd && amd64)

package op

// simd is false: the scalar forms in vec.go serve.
const simd = false

func maxOf32(x []float32) float32                                 { panic("no vector unit") }
func expSum32(dst, x []float32, shift float32) float32            { panic("no vector unit") }
func sum32(x []float32) float32                                   { panic("no vector unit") }
func sumSquares32(x []float32, shift float32) float32             { panic("no vector unit") }
func dot32(x, y []float32) float32                                { panic("no vector unit") }
func scale32(x []float32, a float32)                              { panic("no vector unit") }
func axpy32(y []float32, a float32, x []float32)                  { panic("no vector unit") }
func add32(dst, x, y []float32)                                   { panic("no vector unit") }
func affine32(dst, x []float32, m, r float32, g, b []float32)     { panic("no vector unit") }
func normTerms32(hat, dhat, pg, x, dy, g []float32, m, r float32) { panic("no vector unit") }
func normGrad32(dx, dhat, hat []float32, m1, m2, r float32)       { panic("no vector unit") }
func softmaxGrad32(dp, p []float32, delta, scale float32)         { panic("no vector unit") }
func gelu32(dst, x []float32)                                     { panic("no vector unit") }
func geluGrad32(dst, x, dy []float32)                             { panic("no vector unit") }
func adamw32(w, m, v, g []float32, s adamScalars) int             { panic("no vector unit") }
