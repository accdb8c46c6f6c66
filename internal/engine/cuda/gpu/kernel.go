//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

/*
#include <cuda.h>

// launch_with sets one attribute, whose value is 1.
static CUresult launch_with(int attribute, CUfunction f, unsigned int *blocks, unsigned int *threads, unsigned int shared, CUstream s, void **args) {
	CUlaunchAttribute a = {.id = attribute};
	if (attribute == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
		a.value.cooperative = 1;
	else
		a.value.programmaticStreamSerializationAllowed = 1;
	CUlaunchConfig c = {blocks[0], blocks[1], blocks[2], threads[0], threads[1], threads[2], shared, s, &a, 1};
	return cuLaunchKernelEx(&c, f, args, 0);
}
*/
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"
)

// Module is device code loaded into the context.
type Module struct {
	name string
	m    cu.Module
}

// LoadModule loads a CUBIN or PTX image; name is used in errors only.
func LoadModule(name string, image []byte) (*Module, error) {
	// cu.LoadData takes a string and hands its bytes to the driver with a
	// closing zero, which both image kinds bear.
	m, err := cu.LoadData(string(image))
	if err != nil {
		return nil, wrap("cuModuleLoadData of "+name, err)
	}
	return &Module{name, m}, nil
}

// Kernel looks up an extern "C" __global__ function.
func (m *Module) Kernel(name string) (*Kernel, error) {
	f, err := m.m.Function(name)
	if err != nil {
		return nil, wrap(fmt.Sprintf("kernel %s in %s", name, m.name), err)
	}
	return &Kernel{name: name, f: f}, nil
}

// Ints reads n int constants that the module defines under a name: what a kernel
// tells of how it wants to be launched.
func (m *Module) Ints(name string, n int) ([]int32, error) {
	p, size, err := m.m.Global(name)
	if err != nil {
		return nil, wrap(fmt.Sprintf("constant %s in %s", name, m.name), err)
	}
	if size != sizeOf[int32](n) {
		return nil, fmt.Errorf("constant %s in %s: expected %d bytes, found %d", name, m.name, sizeOf[int32](n), size)
	}
	out := make([]int32, n)
	return out, Download(out, p)
}

// Unload removes the module from the context.
func (m *Module) Unload() error { return wrap("cuModuleUnload of "+m.name, m.m.Unload()) }

// Kernel is a function of a module.
type Kernel struct {
	name   string
	f      cu.Function
	shared int // dynamic shared memory that it may use so far
}

// Grid is the shape of a launch: blocks and threads in each (x, y, z; zero
// counts as one), and a block's dynamic shared memory in bytes.
type Grid struct {
	Blocks, Threads [3]int
	Shared          int
}

// Grid1 is a one-dimensional launch of enough blocks for n threads.
func Grid1(n, threads int) Grid {
	return Grid{Blocks: [3]int{(n + threads - 1) / threads}, Threads: [3]int{threads}}
}

// defaultShared is what a block may use without asking: 48 KiB, of which half is
// left to what the kernel declares itself.
const defaultShared = 24 << 10

// Launch puts the kernel into a stream. Arguments must have the C types of the
// kernel's parameters: Ptr, int32, uint32, int64, uint64, float32, float64 or
// *TensorMap.
func (k *Kernel) Launch(s Stream, g Grid, args ...any) error {
	return k.launch(g, args, func(ptrs []unsafe.Pointer) error {
		return k.f.Launch(max(g.Blocks[0], 1), max(g.Blocks[1], 1), max(g.Blocks[2], 1),
			max(g.Threads[0], 1), max(g.Threads[1], 1), max(g.Threads[2], 1), g.Shared, s.s, ptrs)
	})
}

// LaunchEarly is Launch for a kernel that itself waits for the one ahead of it in the
// stream (griddepcontrol.wait) and may begin while that one runs. It needs compute
// capability 9.0.
func (k *Kernel) LaunchEarly(s Stream, g Grid, args ...any) error {
	return k.launchWith(C.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, s, g, args)
}

// LaunchTogether is Launch for a kernel whose blocks wait for one another: they are
// all on the device at the same time, or the launch fails.
func (k *Kernel) LaunchTogether(s Stream, g Grid, args ...any) error {
	return k.launchWith(C.CU_LAUNCH_ATTRIBUTE_COOPERATIVE, s, g, args)
}

func (k *Kernel) launchWith(attribute C.int, s Stream, g Grid, args []any) error {
	return k.launch(g, args, func(ptrs []unsafe.Pointer) error {
		var blocks, threads [3]C.uint
		for i := range 3 {
			blocks[i], threads[i] = C.uint(max(g.Blocks[i], 1)), C.uint(max(g.Threads[i], 1))
		}
		// C must not be handed Go memory that holds pointers to Go memory, unless it
		// is pinned.
		var pinner runtime.Pinner
		defer pinner.Unpin()
		for _, p := range ptrs {
			pinner.Pin(p)
		}
		return check("cuLaunchKernelEx", C.launch_with(attribute, k.c(), &blocks[0], &threads[0], C.uint(g.Shared), s.c(), &ptrs[0]))
	})
}

// launch lays the arguments out and hands them to call.
func (k *Kernel) launch(g Grid, args []any, call func(ptrs []unsafe.Pointer) error) error {
	if g.Shared > defaultShared && g.Shared > k.shared {
		if err := check(fmt.Sprintf("kernel %s: %d bytes of shared memory", k.name, g.Shared),
			C.cuFuncSetAttribute(k.c(), C.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, C.int(g.Shared))); err != nil {
			return err
		}
		k.shared = g.Shared
	}
	cells := make([]uint64, len(args))
	ptrs := make([]unsafe.Pointer, len(args))
	for i, a := range args {
		if m, ok := a.(*TensorMap); ok {
			ptrs[i] = unsafe.Pointer(m)
			continue
		}
		cells[i] = cell(k.name, i, a)
		ptrs[i] = unsafe.Pointer(&cells[i])
	}
	if err := call(ptrs); err != nil {
		return wrap(fmt.Sprintf("kernel %s, blocks %v of %v threads, %d bytes shared", k.name, g.Blocks, g.Threads, g.Shared), err)
	}
	return nil
}

// cell lays an argument out in eight bytes, little-endian as the host.
func cell(kernel string, i int, a any) uint64 {
	switch v := a.(type) {
	case Ptr:
		return uint64(v)
	case int32:
		return uint64(uint32(v))
	case uint32:
		return uint64(v)
	case int64:
		return uint64(v)
	case uint64:
		return v
	case float32:
		return uint64(math.Float32bits(v))
	case float64:
		return math.Float64bits(v)
	}
	panic(fmt.Sprintf("gpu: kernel %s: argument %d has type %T", kernel, i, a))
}

// c is the driver's handle, the only field of cu's type.
func (k *Kernel) c() C.CUfunction { return *(*C.CUfunction)(unsafe.Pointer(&k.f)) }
