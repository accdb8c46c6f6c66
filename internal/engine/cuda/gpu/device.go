//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

// #include <cuda.h>
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"gorgonia.org/cu"
)

// ErrClosed is returned by Do after Close.
var ErrClosed = errors.New("the GPU was closed")

// Devices describes the visible GPUs. It needs Load.
func Devices() ([]Info, error) {
	n, err := cu.NumDevices()
	if err != nil {
		return nil, wrap("cuDeviceGetCount", err)
	}
	infos := make([]Info, n)
	for i := range infos {
		if infos[i], err = describe(i); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

func describe(index int) (Info, error) {
	dev, err := cu.GetDevice(index)
	if err != nil {
		return Info{}, wrap(fmt.Sprintf("cuDeviceGet %d", index), err)
	}
	info := Info{Index: index, Driver: cudaVersion(cu.Version())}
	if info.Name, err = dev.Name(); err != nil {
		return info, wrap("cuDeviceGetName", err)
	}
	id, err := dev.UUID()
	if err != nil {
		return info, wrap("cuDeviceGetUuid", err)
	}
	info.UUID = id.String()
	if info.Memory, err = dev.TotalMem(); err != nil {
		return info, wrap("cuDeviceTotalMem", err)
	}
	for _, a := range []struct {
		dst  *int
		attr cu.DeviceAttribute
	}{
		{&info.Major, cu.ComputeCapabilityMajor}, {&info.Minor, cu.ComputeCapabilityMinor},
		{&info.SMs, cu.MultiprocessorCount}, {&info.Clock, cu.ClockRate}, {&info.L2, cu.L2CacheSize},
		{&info.SharedMemory, C.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN},
	} {
		if *a.dst, err = dev.Attribute(a.attr); err != nil {
			return info, wrap("cuDeviceGetAttribute", err)
		}
	}
	return info, nil
}

// Device is an open GPU: its primary context and the OS thread that owns it.
type Device struct {
	info Info
	dev  cu.Device

	work chan task
	done chan struct{} // closed when the thread has ended
	once sync.Once
}

type task struct {
	run   func() error
	reply chan error
}

// Open takes the device's primary context on a thread of its own. It needs
// Load.
func Open(index int) (*Device, error) {
	n, err := cu.NumDevices()
	if err != nil {
		return nil, wrap("cuDeviceGetCount", err)
	}
	if index < 0 || index >= n {
		return nil, fmt.Errorf("%w with number %d: there are %d, numbered from 0", ErrNoDevice, index, n)
	}
	info, err := describe(index)
	if err != nil {
		return nil, err
	}
	if info.Major < 8 {
		return nil, fmt.Errorf("%w that can be used: %s has compute capability %d.%d, 8.0 (Ampere) or newer is needed",
			ErrNoDevice, info.Name, info.Major, info.Minor)
	}
	d := &Device{info: info, work: make(chan task), done: make(chan struct{})}
	if d.dev, err = cu.GetDevice(index); err != nil {
		return nil, wrap(fmt.Sprintf("cuDeviceGet %d", index), err)
	}
	started := make(chan error)
	go d.serve(started)
	if err := <-started; err != nil {
		return nil, err
	}
	return d, nil
}

// serve is the device's thread. It is never unlocked, so that the OS thread
// ends with the goroutine instead of carrying a context into other work.
func (d *Device) serve(started chan<- error) {
	runtime.LockOSThread()
	defer close(d.done)
	ctx, err := d.dev.RetainPrimaryCtx()
	if err != nil {
		started <- wrap(fmt.Sprintf("cuDevicePrimaryCtxRetain of cuda:%d", d.info.Index), err)
		return
	}
	if err := cu.SetCurrentContext(ctx); err != nil {
		started <- wrap("cuCtxSetCurrent", err)
		return
	}
	started <- nil
	for t := range d.work {
		t.reply <- t.run()
	}
	// Nothing is left to do with an error: the context goes with the process.
	_ = d.dev.ReleasePrimaryCtx()
}

// Do runs f on the device's thread and returns its error. Calls run one after
// another. f must not call Do.
func (d *Device) Do(f func() error) error {
	t := task{f, make(chan error, 1)}
	select {
	case <-d.done:
		return ErrClosed
	case d.work <- t:
		return <-t.reply
	}
}

// Info describes the device.
func (d *Device) Info() Info { return d.info }

// Close gives the context back. What was allocated on the device and not freed
// is lost when no one else holds the primary context.
func (d *Device) Close() error {
	d.once.Do(func() { close(d.work) })
	<-d.done
	return nil
}

// FreeMemory is the memory of the device at hand in bytes, free and in all.
func FreeMemory() (free, total int64, err error) {
	free, total, err = cu.MemInfo()
	return free, total, wrap("cuMemGetInfo", err)
}

// Synchronize waits for all work on the device.
func Synchronize() error { return wrap("cuCtxSynchronize", cu.Synchronize()) }
