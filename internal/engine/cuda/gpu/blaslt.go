//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

/*
#include <stdlib.h>
#include "blaslt.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"
)

// Type is the element type of a matrix in device memory.
type Type int

const (
	Float32 Type = iota
	BFloat16
)

// Size is an element's size in bytes.
func (t Type) Size() int64 {
	if t == BFloat16 {
		return 2
	}
	return 4
}

func (t Type) String() string {
	if t == BFloat16 {
		return "bf16"
	}
	return "f32"
}

// cuda is the type in NVIDIA's cudaDataType.
func (t Type) cuda() C.int {
	if t == BFloat16 {
		return 14
	}
	return 0
}

// Vector says what a product does with its vector operand.
type Vector int

const (
	NoVector Vector = iota
	// AddBias adds the vector, of N elements, to every row of the result.
	AddBias
)

// Product describes D = op(A) op(B) [+ C] [+ bias] over row-major matrices:
// op(A) is [M, K], op(B) is [K, N], C and D are [M, N]. The sum is formed in
// float32; products of float32 matrices do not use TF32.
type Product struct {
	M, N, K        int
	TransA, TransB bool // A is stored [K, M], B is stored [N, K]
	In             Type // of A and B
	Out            Type // of C and D
	Add            bool // C is added; it may be D itself
	Vector         Vector
	VectorType     Type
	// Whole sums are not split into parts, so that an element's terms are added
	// in the same order wherever its row lies.
	Whole bool
	// Elements from a row to the next; 0 where rows follow each other.
	StrideA, StrideB, StrideC, StrideD int
}

func (p Product) String() string {
	op := func(name string, trans bool) string {
		if trans {
			return name + "'"
		}
		return name
	}
	s := fmt.Sprintf("%s[%d,%d] %s[%d,%d] %v->%v", op("A", p.TransA), p.M, p.K, op("B", p.TransB), p.K, p.N, p.In, p.Out)
	if p.Add {
		s += " +C"
	}
	return s + [...]string{"", " +bias"}[p.Vector]
}

// Operations is the number of floating-point operations of the product.
func (p Product) Operations() float64 { return 2 * float64(p.M) * float64(p.N) * float64(p.K) }

// shape turns the product into cuBLAS's column-major terms, in which every
// row-major matrix is its transpose: D' = op(B)' op(A)'.
func (p Product) shape() C.mlkv_lt_shape {
	stride := func(given, trans, plain int, t bool) C.int64_t {
		switch {
		case given != 0:
			return C.int64_t(given)
		case t:
			return C.int64_t(trans)
		}
		return C.int64_t(plain)
	}
	flag := func(b bool) C.int {
		if b {
			return 1
		}
		return 0
	}
	s := C.mlkv_lt_shape{
		transa: flag(p.TransB), transb: flag(p.TransA),
		m: C.uint64_t(p.N), n: C.uint64_t(p.M), k: C.uint64_t(p.K),
		lda: stride(p.StrideB, p.K, p.N, p.TransB), ldb: stride(p.StrideA, p.M, p.K, p.TransA),
		ldc: stride(p.StrideC, 0, p.N, false), ldd: stride(p.StrideD, 0, p.N, false),
		type_in: p.In.cuda(), type_c: p.Out.cuda(), type_out: p.Out.cuda(), type_bias: p.VectorType.cuda(),
		compute:  68,                              // CUBLAS_COMPUTE_32F
		epilogue: [...]C.uint32_t{1, 4}[p.Vector], // DEFAULT, BIAS
	}
	if p.Add {
		s.beta = 1
	}
	s.whole = flag(p.Whole)
	return s
}

// Blas makes matrix products by cuBLASLt.
type Blas struct {
	handle  unsafe.Pointer
	version int
	device  string // what tuned algorithms are valid for
	cache   *Cache
}

var blasMutex sync.Mutex
var blasOpen bool

// WorkspaceSize is the scratch memory that products on one stream share.
const WorkspaceSize = 32 << 20

// NewBlas opens cuBLASLt for a device. The cache keeps the algorithm of every
// product: without it, tuning could choose another one in the next run, whose
// sums may differ in the last bit.
func NewBlas(info Info, cache *Cache) (*Blas, error) {
	blasMutex.Lock()
	defer blasMutex.Unlock()
	if !blasOpen {
		if err := cublasLtLibrary.open(info.Driver, openBlas); err != nil {
			return nil, err
		}
		blasOpen = true
	}
	b := &Blas{version: int(C.mlkv_lt_version()), cache: cache}
	b.device = fmt.Sprintf("%s %s %d", info.Name, info.Arch(), info.SMs)
	if err := blasCheck("cublasLtCreate", C.mlkv_lt_create(&b.handle)); err != nil {
		return nil, err
	}
	return b, nil
}

func openBlas(path string) error {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	if msg := C.mlkv_lt_open(p); msg != nil {
		return errors.New(C.GoString(msg))
	}
	return nil
}

// Version is cuBLASLt's, for example 130100.
func (b *Blas) Version() int { return b.version }

// Close gives the library's handle back.
func (b *Blas) Close() error {
	if b.handle == nil {
		return nil
	}
	h := b.handle
	b.handle = nil
	return blasCheck("cublasLtDestroy", C.mlkv_lt_destroy(h))
}

// Matmul is a product with its algorithm.
type Matmul struct {
	p    Product
	blas *Blas
	plan *C.mlkv_lt_plan
	algo C.mlkv_lt_algo
}

// Operands are the addresses that a product works on, aligned to 16 bytes. C
// counts where Product.Add is set, Vector where Product.Vector is. Workspace
// holds WorkspaceSize bytes that nothing on another stream uses.
type Operands struct {
	A, B, C, D, Vector, Workspace Ptr
}

// Run puts the product into a stream.
func (m *Matmul) Run(s Stream, o Operands) error {
	c := o.C
	if !m.p.Add {
		c = o.D
	}
	return m.run(s, &m.algo, o, c)
}

func (m *Matmul) run(s Stream, algo *C.mlkv_lt_algo, o Operands, c Ptr) error {
	// The left operand of cuBLAS's transposed product is B.
	status := C.mlkv_lt_run(m.blas.handle, m.plan, algo, C.uint64_t(o.B), C.uint64_t(o.A), C.uint64_t(c), C.uint64_t(o.D),
		C.uint64_t(o.Vector), C.uint64_t(o.Workspace), WorkspaceSize, unsafe.Pointer(s.c()))
	if status != 0 {
		return blasCheck("product "+m.p.String(), status)
	}
	return nil
}

// Close gives the plan back.
func (m *Matmul) Close() {
	if m.plan != nil {
		C.mlkv_lt_plan_destroy(m.plan)
		m.plan = nil
	}
}

// blasBase lifts cuBLAS's codes out of the range of the driver's.
const blasBase = 20000

func blasCheck(call string, status C.int) error {
	if status == 0 {
		return nil
	}
	return &Error{Call: call, Code: blasBase + int(status), Name: C.GoString(C.mlkv_lt_error(status)),
		Detail: fmt.Sprintf("cuBLASLt status %d", int(status))}
}
