//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

/*
#include <stdlib.h>
#include "nvrtc.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"
)

// Compiler turns CUDA C++ into device code by NVRTC, NVIDIA's run-time
// compiler: a single library without a toolkit, which compiles for the device
// at hand, so that no device code has to be built and shipped for every
// generation. What it compiled is kept in a cache on disk.
type Compiler struct {
	arch    string // "sm_90a", or "compute_90" where NVRTC does not know the device
	ptx     bool
	version string
	cache   *Cache
}

var nvrtcMutex sync.Mutex
var nvrtcOpen bool

// NewCompiler opens NVRTC for a device. Inside or outside Do.
func NewCompiler(info Info, cache *Cache) (*Compiler, error) {
	nvrtcMutex.Lock()
	defer nvrtcMutex.Unlock()
	if !nvrtcOpen {
		if err := nvrtcLibrary.open(info.Driver, openNVRTC); err != nil {
			return nil, err
		}
		nvrtcOpen = true
	}
	var major, minor C.int
	if err := nvrtcCheck("nvrtcVersion", C.mlkv_nvrtc_version(&major, &minor)); err != nil {
		return nil, err
	}
	c := &Compiler{arch: info.Arch(), cache: cache, version: fmt.Sprintf("%d.%d", major, minor)}
	if newest := newestArch(info.Major*10 + info.Minor); newest != info.Major*10+info.Minor {
		if newest == 0 {
			return nil, fmt.Errorf("NVRTC %s does not compile for %s; install another version", c.version, info)
		}
		// The driver compiles PTX of an older generation for a newer device.
		c.arch, c.ptx = fmt.Sprintf("compute_%d", newest), true
	}
	return c, nil
}

func openNVRTC(path string) error {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	var builtins *C.char
	if file := builtinsBeside(path); file != "" {
		builtins = C.CString(file)
		defer C.free(unsafe.Pointer(builtins))
	}
	if msg := C.mlkv_nvrtc_open(p, builtins); msg != nil {
		return errors.New(C.GoString(msg))
	}
	return nil
}

// builtinsBeside is the library that NVRTC opens by its name alone, which fails
// outside the loader's path unless it is loaded already.
func builtinsBeside(path string) string {
	if !strings.Contains(path, "/") {
		return ""
	}
	found, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "libnvrtc-builtins.so.*")) // the only error is a bad pattern
	if len(found) == 0 {
		return ""
	}
	return found[0]
}

// newestArch is the newest architecture that NVRTC compiles for and that is not
// newer than the device's, as 10*major + minor; 0 where there is none.
func newestArch(device int) int {
	var archs [128]C.int
	best := 0
	for _, a := range archs[:C.mlkv_nvrtc_archs(&archs[0], C.int(len(archs)))] {
		if int(a) <= device {
			best = max(best, int(a))
		}
	}
	return best
}

// Version is NVRTC's, for example "13.0".
func (c *Compiler) Version() string { return c.version }

// Source is a program in CUDA C++.
type Source struct {
	Name    string            // in messages and to the debugger
	Text    string            // what is compiled
	Headers map[string]string // what it may include, by name
	Options []string          // beside the architecture, for example "-DHEAD_SIZE=64"
}

// Compile returns the program's device code, from the cache where it is there.
// The error of a program that does not compile holds the compiler's log.
func (c *Compiler) Compile(src Source) ([]byte, error) {
	parts := []string{c.version, c.arch, src.Name, src.Text}
	for _, name := range slices.Sorted(maps.Keys(src.Headers)) {
		parts = append(parts, name, src.Headers[name])
	}
	name := Key(append(append(parts, "options"), src.Options...)...) + ".cubin"
	if image, ok := c.cache.Get(name); ok {
		return image, nil
	}
	image, err := c.compile(src)
	if err != nil {
		return nil, err
	}
	c.cache.Put(name, image)
	return image, nil
}

func (c *Compiler) compile(src Source) ([]byte, error) {
	names := slices.Sorted(maps.Keys(src.Headers))
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = src.Headers[n]
	}
	options := append([]string{"-arch=" + c.arch, "-std=c++17", "-lineinfo"}, src.Options...)

	text, name := C.CString(src.Text), C.CString(src.Name)
	defer C.free(unsafe.Pointer(text))
	defer C.free(unsafe.Pointer(name))
	ctexts, free := cStrings(texts)
	defer free()
	cnames, free := cStrings(names)
	defer free()
	coptions, free := cStrings(options)
	defer free()
	ptx := C.int(0)
	if c.ptx {
		ptx = 1
	}
	var image, log *C.char
	var size C.size_t
	code := C.mlkv_nvrtc_compile(text, name, C.int(len(names)), ctexts, cnames,
		C.int(len(options)), coptions, ptx, &image, &size, &log)
	defer C.free(unsafe.Pointer(image))
	defer C.free(unsafe.Pointer(log))
	if code != 0 {
		return nil, fmt.Errorf("%w with %s:\n%s", nvrtcCheck("kernel source "+src.Name, code),
			strings.Join(options, " "), strings.TrimSpace(C.GoString(log)))
	}
	return C.GoBytes(unsafe.Pointer(image), C.int(size)), nil
}

// cStrings copies strings to C as an array of pointers, nil for none.
func cStrings(list []string) (**C.char, func()) {
	if len(list) == 0 {
		return nil, func() {}
	}
	array := C.malloc(C.size_t(len(list)) * C.size_t(unsafe.Sizeof(uintptr(0))))
	ptrs := unsafe.Slice((**C.char)(array), len(list))
	for i, s := range list {
		ptrs[i] = C.CString(s)
	}
	return (**C.char)(array), func() {
		for _, p := range ptrs {
			C.free(unsafe.Pointer(p))
		}
		C.free(array)
	}
}

// nvrtcBase lifts NVRTC's codes out of the range of the driver's.
const nvrtcBase = 10000

func nvrtcCheck(call string, code C.int) error {
	if code == 0 {
		return nil
	}
	name := C.GoString(C.mlkv_nvrtc_error(code))
	return &Error{Call: call, Code: nvrtcBase + int(code), Name: name, Detail: "NVRTC code " + strconv.Itoa(int(code))}
}
