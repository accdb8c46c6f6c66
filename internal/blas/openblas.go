package blas

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Env names the variable that chooses the library: "go" for none, a file name
// for a particular OpenBLAS, nothing for OpenBLAS where it is found.
const Env = "MLKV_BLAS"

// library is an OpenBLAS opened at run time; its zero value is none.
type library struct {
	sgemmPtr, dgemmPtr, threadsPtr uintptr
	name                           string
}

var open = sync.OnceValue(func() library {
	names := []string{"libopenblas.so.0", "libopenblas.so", "libopenblas.0.dylib", "libopenblas.dylib"}
	switch chosen := os.Getenv(Env); chosen {
	case "":
	case "go":
		return library{}
	default:
		names = []string{chosen}
	}
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		return library{}
	}
	for _, n := range names {
		if l, ok := load(n); ok {
			return l
		}
	}
	return library{}
})

// load opens a library and sets it to one thread a call: parallelism is ours.
func load(name string) (library, bool) {
	h, err := purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return library{}, false
	}
	l := library{name: "OpenBLAS"}
	var err1, err2, err3 error
	l.threadsPtr, err1 = purego.Dlsym(h, "openblas_set_num_threads")
	l.sgemmPtr, err2 = purego.Dlsym(h, "sgemm_")
	l.dgemmPtr, err3 = purego.Dlsym(h, "dgemm_")
	if err1 != nil || err2 != nil || err3 != nil {
		return library{}, false
	}
	l.setThreads(1)
	if p, err := purego.Dlsym(h, "openblas_get_config"); err == nil {
		var config func() string
		purego.RegisterFunc(&config, p)
		l.name = strings.TrimSpace(config())
		if f := strings.Fields(l.name); len(f) >= 2 && f[0] == "OpenBLAS" {
			l.name = f[0] + " " + f[1]
		}
	}
	if p, err := purego.Dlsym(h, "openblas_get_corename"); err == nil {
		var core func() string
		purego.RegisterFunc(&core, p)
		l.name += fmt.Sprintf(" (%s)", core())
	}
	return l, true
}

// setThreads sets how many threads the library takes for one call.
func (l library) setThreads(n int) { purego.SyscallN(l.threadsPtr, uintptr(n)) }

// Backend names the library in use, for example "OpenBLAS 0.3.21 (Zen)",
// "vector kernel (AVX2)" or "gonum".
func Backend() string {
	if l := open(); l.name != "" {
		return l.name
	}
	if simd {
		return "vector kernel (AVX2)"
	}
	return "gonum"
}

// The Fortran interface takes every argument by address and matrices by
// columns: a row-major c = a*b is the column-major c^T = b^T*a^T, so operands
// change places and transpositions stay.

func (l library) sgemm(ta, tb Transposition, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) bool {
	if l.sgemmPtr == 0 {
		return false
	}
	callGemm(l.sgemmPtr, ta, tb, m, n, k, unsafe.Pointer(&alpha), unsafe.Pointer(unsafe.SliceData(a)), lda,
		unsafe.Pointer(unsafe.SliceData(b)), ldb, unsafe.Pointer(&beta), unsafe.Pointer(unsafe.SliceData(c)), ldc)
	return true
}

func (l library) dgemm(ta, tb Transposition, m, n, k int, alpha float64, a []float64, lda int, b []float64, ldb int, beta float64, c []float64, ldc int) bool {
	if l.dgemmPtr == 0 {
		return false
	}
	callGemm(l.dgemmPtr, ta, tb, m, n, k, unsafe.Pointer(&alpha), unsafe.Pointer(unsafe.SliceData(a)), lda,
		unsafe.Pointer(unsafe.SliceData(b)), ldb, unsafe.Pointer(&beta), unsafe.Pointer(unsafe.SliceData(c)), ldc)
	return true
}

// gemmArgs are the arguments that the Fortran interface reads by address.
type gemmArgs struct {
	ta, tb                 byte
	m, n, k, lda, ldb, ldc int32
}

var gemmPool = sync.Pool{New: func() any { return new(gemmArgs) }}

func callGemm(fn uintptr, ta, tb Transposition, m, n, k int, alpha, a unsafe.Pointer, lda int, b unsafe.Pointer, ldb int, beta, c unsafe.Pointer, ldc int) {
	g := gemmPool.Get().(*gemmArgs)
	defer gemmPool.Put(g)
	*g = gemmArgs{letter(tb), letter(ta), int32(n), int32(m), int32(k), int32(ldb), int32(lda), int32(ldc)}
	purego.SyscallN(fn,
		uintptr(unsafe.Pointer(&g.ta)), uintptr(unsafe.Pointer(&g.tb)),
		uintptr(unsafe.Pointer(&g.m)), uintptr(unsafe.Pointer(&g.n)), uintptr(unsafe.Pointer(&g.k)),
		uintptr(alpha), uintptr(b), uintptr(unsafe.Pointer(&g.lda)), uintptr(a), uintptr(unsafe.Pointer(&g.ldb)),
		uintptr(beta), uintptr(c), uintptr(unsafe.Pointer(&g.ldc)))
	runtime.KeepAlive(g)
}

func letter(t Transposition) byte {
	if t {
		return 'T'
	}
	return 'N'
}
