//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

// #include <cuda.h>
import "C"

import (
	"fmt"
	"unsafe"

	"gorgonia.org/cu"
)

// Ptr is an address in device memory.
type Ptr = cu.DevicePtr

// Alignment is the alignment of every allocation, in bytes.
const Alignment = 256

// Arena is one allocation that a plan divides by offsets.
type Arena struct {
	base Ptr
	size int64
}

// NewArena allocates size bytes of device memory. The error is ErrOutOfMemory
// where they are not free.
func NewArena(size int64) (*Arena, error) {
	if size <= 0 {
		return nil, fmt.Errorf("arena: expected a positive size, found %d bytes", size)
	}
	p, err := cu.MemAlloc(size)
	if err != nil {
		call := fmt.Sprintf("cuMemAlloc of %.2f GiB", float64(size)/(1<<30))
		if free, total, merr := FreeMemory(); merr == nil {
			call += fmt.Sprintf(" with %.2f of %.2f GiB free", float64(free)/(1<<30), float64(total)/(1<<30))
		}
		return nil, wrap(call, err)
	}
	return &Arena{p, size}, nil
}

// Size is the arena's size in bytes.
func (a *Arena) Size() int64 { return a.size }

// At is the address of offset; a range of size bytes must lie inside the arena.
func (a *Arena) At(offset, size int64) Ptr {
	if offset < 0 || size < 0 || offset+size > a.size {
		panic(fmt.Sprintf("gpu: range [%d, %d) outside an arena of %d bytes", offset, offset+size, a.size))
	}
	return a.base + Ptr(offset)
}

// Free gives the memory back.
func (a *Arena) Free() error {
	if a.base == 0 {
		return nil
	}
	err := cu.MemFree(a.base)
	a.base = 0
	return wrap("cuMemFree", err)
}

// Number is an element type that host slices are copied in.
type Number interface {
	~float32 | ~float64 | ~int32 | ~uint32 | ~uint16 | ~int64 | ~uint64 | ~uint8
}

func sizeOf[T Number](n int) int64 {
	var zero T
	return int64(n) * int64(unsafe.Sizeof(zero))
}

// Upload copies a slice to the device and waits.
func Upload[T Number](dst Ptr, src []T) error {
	if len(src) == 0 {
		return nil
	}
	err := wrap("cuMemcpyHtoD", cu.MemcpyHtoD(dst, unsafe.Pointer(unsafe.SliceData(src)), sizeOf[T](len(src))))
	if err != nil {
		return err
	}
	// From pageable memory the call returns before the last part has arrived.
	return wrap("cuStreamSynchronize", cu.NoStream.Synchronize())
}

// Download fills a slice from the device. It waits for work on the default
// stream only: synchronize with other streams before.
func Download[T Number](dst []T, src Ptr) error {
	if len(dst) == 0 {
		return nil
	}
	return wrap("cuMemcpyDtoH", cu.MemcpyDtoH(unsafe.Pointer(unsafe.SliceData(dst)), src, sizeOf[T](len(dst))))
}

// bytesOf is the memory of a slice of structures without pointers.
func bytesOf[T any](v []T) []byte {
	var zero T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(zero)))
}

// UploadValues is Upload for structures without pointers, laid out as in C.
func UploadValues[T any](dst Ptr, src []T) error { return Upload(dst, bytesOf(src)) }

// DownloadValues is Download for structures without pointers.
func DownloadValues[T any](dst []T, src Ptr) error { return Download(bytesOf(dst), src) }

// Values fills structures without pointers from their bytes.
func Values[T any](dst []T, src []byte) { copy(bytesOf(dst), src) }

// Pinned is host memory that the device copies from and to without a staging
// copy, while the host goes on.
type Pinned[T Number] struct {
	p unsafe.Pointer
	n int
}

// NewPinned allocates n elements of page-locked host memory, zeroed.
func NewPinned[T Number](n int) (*Pinned[T], error) {
	h := &Pinned[T]{n: n}
	bytes := sizeOf[T](n)
	if err := check(fmt.Sprintf("cuMemHostAlloc of %d bytes", bytes), C.cuMemHostAlloc(&h.p, C.size_t(bytes), 0)); err != nil {
		return nil, err
	}
	clear(h.Slice())
	return h, nil
}

// Slice is the memory itself, valid until Free.
func (h *Pinned[T]) Slice() []T { return unsafe.Slice((*T)(h.p), h.n) }

// Ptr is the memory's address for kernels, which reach it over the bus.
func (h *Pinned[T]) Ptr() Ptr { return Ptr(uintptr(h.p)) }

// Upload copies n elements from element from on to the device in the stream's
// order.
func (h *Pinned[T]) Upload(s Stream, dst Ptr, from, n int) error {
	return wrap("cuMemcpyHtoDAsync", cu.MemcpyHtoDAsync(dst, unsafe.Pointer(&h.Slice()[from : from+n][0]), sizeOf[T](n), s.s))
}

// Download copies n elements from the device in the stream's order; Slice
// holds them once the stream has been synchronized.
func (h *Pinned[T]) Download(s Stream, src Ptr, n int) error {
	return wrap("cuMemcpyDtoHAsync", cu.MemcpyDtoHAsync(h.p, src, sizeOf[T](n), s.s))
}

// Free gives the memory back.
func (h *Pinned[T]) Free() error {
	if h.p == nil {
		return nil
	}
	err := cu.MemFreeHost(h.p)
	h.p, h.n = nil, 0
	return wrap("cuMemFreeHost", err)
}
