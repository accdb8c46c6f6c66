//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

// #include <cuda.h>
import "C"

import (
	"fmt"
	"unsafe"

	"gorgonia.org/cu"
)

// Stream is a queue of work that the device does in order.
type Stream struct{ s cu.Stream }

// NewStream makes a stream that does not wait for the default one.
func NewStream() (Stream, error) {
	s, err := cu.MakeStream(cu.NonBlocking)
	return Stream{s}, wrap("cuStreamCreate", err)
}

func (s Stream) c() C.CUstream { return C.CUstream(unsafe.Pointer(s.s.C())) }

// Synchronize waits until the stream is empty. Errors of kernels that ran in
// it come to light here.
func (s Stream) Synchronize() error { return wrap("cuStreamSynchronize", s.s.Synchronize()) }

// Wait makes later work of the stream wait for an event.
func (s Stream) Wait(e Event) error { return wrap("cuStreamWaitEvent", s.s.Wait(e.e, 0)) }

// Zero clears size bytes, a multiple of 4, in the stream's order.
func (s Stream) Zero(p Ptr, size int64) error { return s.Fill(p, 0, size) }

// Fill repeats a word over size bytes, a multiple of 4, in the stream's order.
func (s Stream) Fill(p Ptr, word uint32, size int64) error {
	if size%4 != 0 {
		panic(fmt.Sprintf("gpu: %d bytes to fill are no multiple of 4", size))
	}
	return wrap("cuMemsetD32Async", cu.MemsetD32Async(p, uint(word), size/4, s.s))
}

// Copy copies size bytes on the device in the stream's order.
func (s Stream) Copy(dst, src Ptr, size int64) error {
	return wrap("cuMemcpyDtoDAsync", cu.MemcpyDtoDAsync(dst, src, size, s.s))
}

// CopyRows copies rows of width bytes on the device, whose beginnings lie
// dstPitch and srcPitch bytes apart, in the stream's order.
func (s Stream) CopyRows(dst Ptr, dstPitch int64, src Ptr, srcPitch, width int64, rows int) error {
	c := C.CUDA_MEMCPY2D{
		srcMemoryType: C.CU_MEMORYTYPE_DEVICE, srcDevice: C.CUdeviceptr(src), srcPitch: C.size_t(srcPitch),
		dstMemoryType: C.CU_MEMORYTYPE_DEVICE, dstDevice: C.CUdeviceptr(dst), dstPitch: C.size_t(dstPitch),
		WidthInBytes: C.size_t(width), Height: C.size_t(rows),
	}
	return check("cuMemcpy2DAsync", C.cuMemcpy2DAsync(&c, s.c()))
}

// Destroy gives the stream back once its work is done.
func (s *Stream) Destroy() error { return wrap("cuStreamDestroy", s.s.Destroy()) }

// Event marks a point in a stream.
type Event struct{ e cu.Event }

// NewEvent makes an event; only a timing one can be given to Elapsed.
func NewEvent(timing bool) (Event, error) {
	flags := cu.DisableTiming
	if timing {
		flags = cu.DefaultEvent
	}
	e, err := cu.MakeEvent(flags)
	return Event{e}, wrap("cuEventCreate", err)
}

// Record marks the work that the stream holds now.
func (e Event) Record(s Stream) error { return wrap("cuEventRecord", e.e.Record(s.s)) }

// Synchronize waits for the marked work.
func (e Event) Synchronize() error { return wrap("cuEventSynchronize", e.e.Synchronize()) }

// Elapsed is the time from e to end in milliseconds; both must be done.
func (e Event) Elapsed(end Event) (float64, error) {
	ms, err := e.e.Elapsed(end.e)
	return ms, wrap("cuEventElapsedTime", err)
}

// Destroy gives the event back.
func (e *Event) Destroy() error { return wrap("cuEventDestroy", cu.DestroyEvent(&e.e)) }

// Graph is a sequence of work that is launched as one.
type Graph struct {
	exec  C.CUgraphExec
	nodes int
}

// Capture records what f puts into the stream, and into others by events, as a
// graph; nothing of it runs. f must not allocate, synchronize or read back.
func Capture(s Stream, f func() error) (*Graph, error) {
	if err := check("cuStreamBeginCapture", C.cuStreamBeginCapture(s.c(), C.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)); err != nil {
		return nil, err
	}
	err := f()
	// The capture has to end even where f failed, or the stream stays unusable.
	var g C.CUgraph
	ended := check("cuStreamEndCapture", C.cuStreamEndCapture(s.c(), &g))
	if g != nil {
		defer C.cuGraphDestroy(g)
	}
	if err != nil {
		return nil, err
	}
	if ended != nil {
		return nil, ended
	}
	out := &Graph{}
	var n C.size_t
	if err := check("cuGraphGetNodes", C.cuGraphGetNodes(g, nil, &n)); err != nil {
		return nil, err
	}
	out.nodes = int(n)
	if err := check("cuGraphInstantiate", C.cuGraphInstantiateWithFlags(&out.exec, g, 0)); err != nil {
		return nil, err
	}
	if err := check("cuGraphUpload", C.cuGraphUpload(out.exec, s.c())); err != nil {
		return nil, err
	}
	return out, nil
}

// Launch puts the graph into a stream.
func (g *Graph) Launch(s Stream) error {
	return check("cuGraphLaunch", C.cuGraphLaunch(g.exec, s.c()))
}

// Nodes is the number of kernels, copies and fills in the graph.
func (g *Graph) Nodes() int { return g.nodes }

// Destroy gives the graph back.
func (g *Graph) Destroy() error {
	if g.exec == nil {
		return nil
	}
	err := check("cuGraphExecDestroy", C.cuGraphExecDestroy(g.exec))
	g.exec = nil
	return err
}
