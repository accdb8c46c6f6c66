package cpu

import (
	"fmt"
	"unsafe"

	"github.com/edsrzf/mmap-go"

	"mlkv/internal/engine"
)

// region is zeroed memory from the operating system rather than from Go's heap:
// it becomes resident as it is used, and is given back at once.
type region struct {
	data mmap.MMap
	rest []float32 // not taken yet
}

// regionAlign is the distance in elements to which parts are rounded.
const regionAlign = 16

// newRegion reserves room for the elements and some parts' rounding. The error
// is engine.ErrOutOfMemory where they and the bytes that are held besides
// exceed the limit, or without one where they exceed what is free.
func newRegion(elements, held, limit int64) (region, error) {
	size := (elements + 1024*regionAlign) * 4
	free, _ := memory()
	switch {
	case limit > 0 && held+4*elements > limit:
		return region{}, fmt.Errorf("%w: %.2f GiB of the %.2f GiB allowed", engine.ErrOutOfMemory, gib(held+4*elements), gib(limit))
	case free > 0 && size > free:
		return region{}, fmt.Errorf("%w: %.2f GiB with %.2f GiB free", engine.ErrOutOfMemory, gib(size), gib(free))
	}
	data, err := mmap.MapRegion(nil, int(size), mmap.RDWR, mmap.ANON, 0)
	if err != nil {
		return region{}, fmt.Errorf("%w: %.2f GiB: %w", engine.ErrOutOfMemory, gib(size), err)
	}
	return region{data, unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(data))), size/4)}, nil
}

func gib(n int64) float64 { return float64(n) / (1 << 30) }

// take is the next part of n elements.
func (r *region) take(n int) []float32 {
	part := r.rest[:n:n]
	r.rest = r.rest[(n+regionAlign-1)/regionAlign*regionAlign:]
	return part
}

// free gives the memory back; its parts must not be used any more.
func (r *region) free() error {
	if r.data == nil {
		return nil
	}
	err := r.data.Unmap()
	*r = region{}
	return err
}
