//go:build goexperiment.simd && amd64

package blas

import (
	"simd/archsimd"
	"sync"
	"unsafe"
)

// simd says that the processor has AVX2 and FMA, which the vector kernel needs.
var simd = archsimd.X86.AVX2() && archsimd.X86.FMA()

// The kernel holds a micro-tile of 4 rows and 16 columns of the result in 8 of
// the 16 vector registers while it runs over a block of the inner dimension,
// reading panels of both operands that were packed for it (Goto and van de
// Geijn, "Anatomy of High-Performance Matrix Multiplication"). Every element of
// the result adds its products in the same order, wherever it stands and
// however large the result is.
const (
	microRows = 4
	microCols = 16
	innerStep = 256 // of the inner dimension in one packed panel
)

type vec = archsimd.Float32x8

func loadVec(p unsafe.Pointer) vec     { return archsimd.LoadFloat32x8((*[8]float32)(p)) }
func storeVec(v vec, p unsafe.Pointer) { v.Store((*[8]float32)(p)) }

// micro adds alpha times the product of two packed panels of depth k to 4 rows
// of c. Four steps of the inner dimension are written out, because the compiler
// moves every accumulator between registers once in each turn of the loop.
func micro(k int, alpha float32, a, b, c unsafe.Pointer, stride uintptr) {
	var c00, c01, c10, c11, c20, c21, c30, c31, b0, b1, x vec
	for ; k >= 4; k -= 4 {
		b0, b1 = loadVec(b), loadVec(unsafe.Add(b, 32))
		x = archsimd.BroadcastFloat32x8(*(*float32)(a))
		c00, c01 = x.MulAdd(b0, c00), x.MulAdd(b1, c01)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 4)))
		c10, c11 = x.MulAdd(b0, c10), x.MulAdd(b1, c11)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 8)))
		c20, c21 = x.MulAdd(b0, c20), x.MulAdd(b1, c21)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 12)))
		c30, c31 = x.MulAdd(b0, c30), x.MulAdd(b1, c31)
		b0, b1 = loadVec(unsafe.Add(b, 64)), loadVec(unsafe.Add(b, 96))
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 16)))
		c00, c01 = x.MulAdd(b0, c00), x.MulAdd(b1, c01)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 20)))
		c10, c11 = x.MulAdd(b0, c10), x.MulAdd(b1, c11)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 24)))
		c20, c21 = x.MulAdd(b0, c20), x.MulAdd(b1, c21)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 28)))
		c30, c31 = x.MulAdd(b0, c30), x.MulAdd(b1, c31)
		b0, b1 = loadVec(unsafe.Add(b, 128)), loadVec(unsafe.Add(b, 160))
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 32)))
		c00, c01 = x.MulAdd(b0, c00), x.MulAdd(b1, c01)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 36)))
		c10, c11 = x.MulAdd(b0, c10), x.MulAdd(b1, c11)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 40)))
		c20, c21 = x.MulAdd(b0, c20), x.MulAdd(b1, c21)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 44)))
		c30, c31 = x.MulAdd(b0, c30), x.MulAdd(b1, c31)
		b0, b1 = loadVec(unsafe.Add(b, 192)), loadVec(unsafe.Add(b, 224))
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 48)))
		c00, c01 = x.MulAdd(b0, c00), x.MulAdd(b1, c01)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 52)))
		c10, c11 = x.MulAdd(b0, c10), x.MulAdd(b1, c11)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 56)))
		c20, c21 = x.MulAdd(b0, c20), x.MulAdd(b1, c21)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 60)))
		c30, c31 = x.MulAdd(b0, c30), x.MulAdd(b1, c31)
		a, b = unsafe.Add(a, 16*microRows), unsafe.Add(b, 16*microCols)
	}
	for range k {
		b0, b1 = loadVec(b), loadVec(unsafe.Add(b, 32))
		x = archsimd.BroadcastFloat32x8(*(*float32)(a))
		c00, c01 = x.MulAdd(b0, c00), x.MulAdd(b1, c01)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 4)))
		c10, c11 = x.MulAdd(b0, c10), x.MulAdd(b1, c11)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 8)))
		c20, c21 = x.MulAdd(b0, c20), x.MulAdd(b1, c21)
		x = archsimd.BroadcastFloat32x8(*(*float32)(unsafe.Add(a, 12)))
		c30, c31 = x.MulAdd(b0, c30), x.MulAdd(b1, c31)
		a, b = unsafe.Add(a, 4*microRows), unsafe.Add(b, 4*microCols)
	}
	f := archsimd.BroadcastFloat32x8(alpha)
	addRow(c, f, c00, c01)
	addRow(unsafe.Add(c, stride), f, c10, c11)
	addRow(unsafe.Add(c, 2*stride), f, c20, c21)
	addRow(unsafe.Add(c, 3*stride), f, c30, c31)
}

func addRow(c unsafe.Pointer, f, x, y vec) {
	storeVec(f.MulAdd(x, loadVec(c)), c)
	storeVec(f.MulAdd(y, loadVec(unsafe.Add(c, 32))), unsafe.Add(c, 32))
}

// panels are packed operands, kept between products.
type panels struct{ a, b []float32 }

var panelPool = sync.Pool{New: func() any { return new(panels) }}

func grow(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}

// vectorGemm is Serial in float32 by the vector kernel.
func vectorGemm(ta, tb Transposition, alpha float32, a, b Matrix[float32], beta float32, c Matrix[float32]) {
	k := a.Cols
	if ta {
		k = a.Rows
	}
	for i := range c.Rows {
		row := c.Data[i*c.Stride : i*c.Stride+c.Cols]
		switch beta {
		case 0:
			clear(row)
		case 1:
		default:
			for j := range row {
				row[j] *= beta
			}
		}
	}
	p := panelPool.Get().(*panels)
	defer panelPool.Put(p)
	rowPanels, colPanels := (c.Rows+microRows-1)/microRows, (c.Cols+microCols-1)/microCols
	p.a = grow(p.a, rowPanels*microRows*innerStep)
	p.b = grow(p.b, colPanels*microCols*innerStep)
	for k0 := 0; k0 < k; k0 += innerStep {
		depth := min(innerStep, k-k0)
		pack(p.a, a, !bool(ta), c.Rows, k0, depth, microRows)
		pack(p.b, b, bool(tb), c.Cols, k0, depth, microCols)
		for j := range colPanels {
			for i := range rowPanels {
				microTile(p, alpha, c, i, j, depth)
			}
		}
	}
}

// microTile runs the kernel on one micro-tile; one that reaches beyond the
// result goes through a buffer.
func microTile(p *panels, alpha float32, c Matrix[float32], i, j, depth int) {
	a := unsafe.Pointer(&p.a[i*microRows*depth])
	b := unsafe.Pointer(&p.b[j*microCols*depth])
	r, w := min(microRows, c.Rows-i*microRows), min(microCols, c.Cols-j*microCols)
	at := i*microRows*c.Stride + j*microCols
	if r == microRows && w == microCols {
		micro(depth, alpha, a, b, unsafe.Pointer(&c.Data[at]), uintptr(c.Stride)*4)
		return
	}
	var edge [microRows * microCols]float32
	for y := range r {
		copy(edge[y*microCols:], c.Data[at+y*c.Stride:at+y*c.Stride+w])
	}
	micro(depth, alpha, a, b, unsafe.Pointer(&edge), microCols*4)
	for y := range r {
		copy(c.Data[at+y*c.Stride:at+y*c.Stride+w], edge[y*microCols:])
	}
}

// pack lays n rows (or columns) of an operand out in panels of the given width,
// inner dimension first. With along, the inner dimension is the
// one that is contiguous in m.
func pack(dst []float32, m Matrix[float32], along bool, n, k0, depth, width int) {
	for p := 0; p < n; p += width {
		panel := dst[p*depth : (p+width)*depth]
		have := min(width, n-p)
		if have < width {
			clear(panel)
		}
		if along {
			for r := range have {
				src := m.Data[(p+r)*m.Stride+k0 : (p+r)*m.Stride+k0+depth]
				for k, v := range src {
					panel[k*width+r] = v
				}
			}
			continue
		}
		for k := range depth {
			src := m.Data[(k0+k)*m.Stride+p : (k0+k)*m.Stride+p+have]
			to := panel[k*width : k*width+have]
			copy(to, src)
		}
	}
}
