//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

/*
#include <stdint.h>
#include <string.h>
#include <cuda.h>

// The map must lie at a multiple of 64, which Go memory need not.
static CUresult tensor_map(void *out, CUdeviceptr p, uint64_t rows, uint64_t columns, uint64_t stride, uint32_t box_rows, uint32_t box_columns) {
	CUtensorMap m;
	cuuint64_t size[2] = {columns, rows}, strides[1] = {stride};
	cuuint32_t box[2] = {box_columns, box_rows}, steps[2] = {1, 1};
	CUresult r = cuTensorMapEncodeTiled(&m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)p, size, strides, box, steps,
		CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
	if (r == CUDA_SUCCESS)
		memcpy(out, &m, sizeof m);
	return r;
}
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// TensorMap tells Hopper's copy engine of a matrix; a kernel takes it as a parameter
// of 128 bytes.
type TensorMap struct{ words [16]uint64 }

// boxColumns are the columns of a box: 128 bytes of bf16, the width of the swizzle.
const boxColumns = 64

// NewTensorMap describes a matrix of bf16 [rows, columns], whose rows lie stride
// elements apart, a multiple of 8 as the address is of 16 bytes. It is copied in boxes
// of boxRows (at most 256) x 64, swizzled by 128 bytes.
func NewTensorMap(p Ptr, rows, columns, stride, boxRows int) (*TensorMap, error) {
	m := new(TensorMap)
	r := C.tensor_map(unsafe.Pointer(m), C.CUdeviceptr(p), C.uint64_t(rows), C.uint64_t(columns), C.uint64_t(2*stride), C.uint32_t(boxRows), boxColumns)
	return m, check(fmt.Sprintf("cuTensorMapEncodeTiled of %d x %d", rows, columns), r)
}
