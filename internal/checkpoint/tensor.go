package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"
)

// Tensor is a stored array: little-endian elements in row-major order. Data
// may be mapped from a file and must not be written to.
type Tensor struct {
	DType DType
	Shape []int
	Data  []byte
}

// Len is the number of elements.
func (t Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Float32 returns the elements of an F32, F16 or BF16 tensor. Those of an F32
// tensor are Data itself, without a copy, where its address is aligned.
func (t Tensor) Float32() ([]float32, error) {
	if t.DType == F32 {
		if x, ok := view[float32](t.Data); ok {
			return x, nil
		}
	}
	if !t.DType.Weight() {
		return nil, fmt.Errorf("dtype: expected F32, F16 or BF16, found %s", t.DType)
	}
	out := make([]float32, t.Len())
	Parallel(len(out), func(lo, hi int) { t.decode(out[lo:hi], lo) })
	return out, nil
}

// Int32 returns the elements of an I32 tensor, without a copy where its
// address is aligned.
func (t Tensor) Int32() ([]int32, error) {
	if t.DType != I32 {
		return nil, fmt.Errorf("dtype: expected I32, found %s", t.DType)
	}
	if x, ok := view[int32](t.Data); ok {
		return x, nil
	}
	out := make([]int32, t.Len())
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return out, nil
}

// decode fills dst with the elements from index at on.
func (t Tensor) decode(dst []float32, at int) {
	data := t.Data[at*t.DType.Size():]
	switch t.DType {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = f16to32(binary.LittleEndian.Uint16(data[2*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = bf16to32(binary.LittleEndian.Uint16(data[2*i:]))
		}
	}
}

// encode appends src to dst in the given weight type.
func encode(dst []byte, src []float32, d DType) []byte {
	switch d {
	case F32:
		if data, ok := bytesOf(src); ok {
			return append(dst, data...)
		}
		for _, v := range src {
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
		}
	case F16:
		for _, v := range src {
			dst = binary.LittleEndian.AppendUint16(dst, f32to16(v))
		}
	case BF16:
		for _, v := range src {
			dst = binary.LittleEndian.AppendUint16(dst, f32tobf16(v))
		}
	}
	return dst
}

// notFinite returns the index of a NaN or an infinity in a weight tensor, the
// first one, or -1 where every element is finite.
func (t Tensor) notFinite() int {
	var first atomic.Int64
	first.Store(math.MaxInt64)
	Parallel(t.Len(), func(lo, hi int) {
		size := t.DType.Size()
		i := scanNotFinite(t.DType, t.Data[lo*size:hi*size])
		if i < 0 {
			return
		}
		for at := int64(lo + i); ; {
			old := first.Load()
			if at >= old || first.CompareAndSwap(old, at) {
				return
			}
		}
	})
	if i := first.Load(); i != math.MaxInt64 {
		return int(i)
	}
	return -1
}

// scanNotFinite returns the index of the first element whose exponent bits are
// all set, or -1.
func scanNotFinite(d DType, data []byte) int {
	switch d {
	case F32:
		for i := 0; i+4 <= len(data); i += 4 {
			if binary.LittleEndian.Uint32(data[i:])&0x7f800000 == 0x7f800000 {
				return i / 4
			}
		}
	case F16, BF16:
		mask := uint16(0x7c00)
		if d == BF16 {
			mask = 0x7f80
		}
		for i := 0; i+2 <= len(data); i += 2 {
			if binary.LittleEndian.Uint16(data[i:])&mask == mask {
				return i / 2
			}
		}
	}
	return -1
}

// littleEndian tells whether the processor stores numbers as files do.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// view reinterprets little-endian bytes without a copy. It reports false where
// the address is not aligned or the processor is big-endian.
func view[T float32 | int32](data []byte) ([]T, bool) {
	if len(data) == 0 {
		return nil, true
	}
	p := unsafe.Pointer(unsafe.SliceData(data))
	if !littleEndian || uintptr(p)%unsafe.Alignof(T(0)) != 0 {
		return nil, false
	}
	return unsafe.Slice((*T)(p), len(data)/int(unsafe.Sizeof(T(0)))), true
}

// bytesOf is the reverse of view.
func bytesOf(x []float32) ([]byte, bool) {
	if !littleEndian {
		return nil, false
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x)), true
}
