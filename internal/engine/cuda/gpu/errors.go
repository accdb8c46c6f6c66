package gpu

import (
	"errors"
	"fmt"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNoDriver: the CUDA driver's library could not be opened.
	ErrNoDriver = errors.New("no NVIDIA driver was found (libcuda.so.1)")
	// ErrOldDriver: the driver is older than this program needs.
	ErrOldDriver = errors.New("the NVIDIA driver is too old")
	// ErrNoDevice: there is a driver but no GPU that can be used.
	ErrNoDevice = errors.New("no NVIDIA GPU was found")
	// ErrOutOfMemory: the device's memory does not hold what was asked for.
	ErrOutOfMemory = errors.New("out of GPU memory")
	// ErrDeviceLost: the device failed or its context is damaged; nothing on
	// it can be read any more.
	ErrDeviceLost = errors.New("the GPU was lost")
)

// Error is a failed call of the CUDA driver or one of its libraries.
type Error struct {
	Call   string // for example "cuMemAlloc of 2.0 GiB"
	Code   int
	Name   string // for example "CUDA_ERROR_OUT_OF_MEMORY"
	Detail string // the library's own words, or empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s (%d)", e.Call, e.Name, e.Code)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if h := hints[e.Code]; h != "" {
		s += "; " + h
	}
	return s
}

// Is reports whether the code is one that target stands for.
func (e *Error) Is(target error) bool {
	class, ok := classes[e.Code]
	return ok && class == target
}

// classes sorts driver codes; libraries' own codes lie outside its range.
var classes = map[int]error{
	2:   ErrOutOfMemory, // CUDA_ERROR_OUT_OF_MEMORY
	34:  ErrNoDriver,    // CUDA_ERROR_STUB_LIBRARY
	100: ErrNoDevice,    // CUDA_ERROR_NO_DEVICE
	101: ErrNoDevice,    // CUDA_ERROR_INVALID_DEVICE
	214: ErrDeviceLost,  // CUDA_ERROR_ECC_UNCORRECTABLE
	220: ErrDeviceLost,  // CUDA_ERROR_NVLINK_UNCORRECTABLE
	226: ErrDeviceLost,  // CUDA_ERROR_CONTAINED
	222: ErrOldDriver,   // CUDA_ERROR_UNSUPPORTED_PTX_VERSION
	803: ErrOldDriver,   // CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
	804: ErrOldDriver,   // CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE
	700: ErrDeviceLost,  // CUDA_ERROR_ILLEGAL_ADDRESS
	702: ErrDeviceLost,  // CUDA_ERROR_LAUNCH_TIMEOUT
	709: ErrDeviceLost,  // CUDA_ERROR_CONTEXT_IS_DESTROYED
	714: ErrDeviceLost,  // CUDA_ERROR_HARDWARE_STACK_ERROR
	715: ErrDeviceLost,  // CUDA_ERROR_ILLEGAL_INSTRUCTION
	716: ErrDeviceLost,  // CUDA_ERROR_MISALIGNED_ADDRESS
	718: ErrDeviceLost,  // CUDA_ERROR_INVALID_PC
	719: ErrDeviceLost,  // CUDA_ERROR_LAUNCH_FAILED
	999: ErrDeviceLost,  // CUDA_ERROR_UNKNOWN
}

const lostHint = "the GPU or its context is lost; see `nvidia-smi` and the kernel log, then resume from the last checkpoint"

var hints = map[int]string{
	2:   "use fewer rows in a micro-batch (uptrain.micro_rows), see --dry-run, or free the GPU",
	3:   "the driver was not loaded",
	34:  "the library found is a toolkit's stub, not a driver; install the NVIDIA driver",
	100: "check that the GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES)",
	101: "check that the GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES)",
	209: "the compiled kernel does not fit this GPU",
	214: lostHint, 220: lostHint, 226: lostHint, 700: lostHint, 702: lostHint, 709: lostHint, 714: lostHint,
	715: lostHint, 716: lostHint, 718: lostHint, 719: lostHint, 999: lostHint,
	222: "the driver is older than the compiler that made the kernel; update the NVIDIA driver",
	801: "the driver lacks this function; update the NVIDIA driver",
	803: "driver and kernel module differ in version; reboot or reinstall the NVIDIA driver",
	804: "this GPU needs a newer NVIDIA driver",
}
