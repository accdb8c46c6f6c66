//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

/*
#cgo CFLAGS: -I${SRCDIR}/../include
#cgo LDFLAGS: -ldl
#include <cuda.h>
#include "driver.h"
*/
import "C"

import (
	"fmt"
	"sync"

	"gorgonia.org/cu"
)

// minDriver is the oldest CUDA version a driver may support: 12.0, the first
// whose symbol versions include/cuda.h declares.
const minDriver = 12000

// Load opens the CUDA driver and initialises it, once; later calls return the
// first call's result. Its error says why no GPU can be used: no driver
// library, a driver too old, or no device. Nothing else in this package may be
// called before Load succeeded.
var Load = sync.OnceValue(load)

func load() error {
	if msg := C.mlkv_driver_load(); msg != nil {
		return fmt.Errorf("%w: %s", ErrNoDriver, C.GoString(msg))
	}
	if err := check("cuInit", C.cuInit(0)); err != nil {
		return err
	}
	if v := cu.Version(); v < minDriver {
		return fmt.Errorf("%w: it supports CUDA %s, %s or newer is needed; update the NVIDIA driver",
			ErrOldDriver, cudaVersion(v), cudaVersion(minDriver))
	}
	n, err := cu.NumDevices()
	if err != nil {
		return wrap("cuDeviceGetCount", err)
	}
	if n == 0 {
		return fmt.Errorf("%w: the driver reports none", ErrNoDevice)
	}
	return nil
}

// cudaVersion writes a version as the driver encodes it, 1000*major + 10*minor.
func cudaVersion(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }
