// Package gpu drives one NVIDIA GPU: device and context, memory, streams and
// events, CUDA graphs, kernels compiled for the device at hand, and matrix
// products by cuBLASLt. Context, module, memory, launch and stream calls go
// through gorgonia.org/cu; what cu lacks is bound in C in this package.
//
// The CUDA driver, NVRTC and cuBLASLt are opened at run time, so the program
// builds without a toolkit and starts without a driver. The bindings are C
// rather than purego calls because cu needs cgo anyway, and one crossing can
// then do what takes several library calls.
//
// A CUDA context belongs to an OS thread. Every Device has a thread of its own;
// everything but Load, Devices, Open, Do and Close must be called inside Do.
package gpu

import (
	"fmt"
	"strings"
)

// Info describes a GPU.
type Info struct {
	Index        int // as CUDA numbers the visible devices
	Name         string
	UUID         string
	Major, Minor int // compute capability
	SMs          int // streaming multiprocessors
	Clock        int // greatest clock of an SM, in kHz
	L2           int // bytes
	SharedMemory int // greatest shared memory of a block, in bytes
	Memory       int64
	Driver       string // newest CUDA version that the driver supports
}

// Arch is the target that kernels are compiled for, for example "sm_90a": from
// Hopper on, with the instructions that only this generation has.
func (i Info) Arch() string {
	suffix := ""
	if i.Major >= 9 {
		suffix = "a"
	}
	return fmt.Sprintf("sm_%d%d%s", i.Major, i.Minor, suffix)
}

func (i Info) String() string {
	return fmt.Sprintf("%s (cuda:%d, %s, %d SMs)", i.Name, i.Index, i.Arch(), i.SMs)
}

// datasheet holds NVIDIA's dense bf16 rates with float32 accumulation, in
// TFLOP/s, for the parts whose clock under load is not their greatest one. The
// first name that the device's name contains counts.
var datasheet = []struct {
	name   string
	tflops float64
}{
	{"H100 PCIe", 756}, {"H100 NVL", 835}, {"H100", 989.4}, {"H200 NVL", 836}, {"H200", 989.4}, {"GH200", 989.4},
	{"A100", 312}, {"A800", 312}, {"H800", 989.4}, {"B200", 2250}, {"B100", 1750}, {"B300", 2250},
}

// PeakBF16 is the dense bf16 rate with float32 accumulation, in floating-point
// operations a second: NVIDIA's figure for parts in the data centre, otherwise
// SMs x greatest clock x the generation's rate per SM.
func (i Info) PeakBF16() float64 {
	for _, d := range datasheet {
		if strings.Contains(i.Name, d.name) {
			return d.tflops * 1e12
		}
	}
	return float64(i.SMs) * float64(i.Clock) * 1e3 * i.tensorRate()
}

// tensorRate is the number of bf16 operations that one SM does in a clock.
func (i Info) tensorRate() float64 {
	switch {
	case i.Major < 8:
		return 0
	case i.Major == 8 && i.Minor == 0:
		return 2048
	case i.Major == 9:
		return 4096
	case i.Major == 10:
		return 8192
	case strings.Contains(i.Name, "GeForce"):
		return 512
	}
	return 1024
}
