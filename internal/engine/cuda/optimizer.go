//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
)

// stateValues is State of kernels/tensors.cuh: what the host says of a step,
// then what the device makes of it.
type stateValues struct {
	Rate, Beta1, Beta2, Eps, Decay, Clip float32
	OnNaNSkip                            int32
	Steps                                int32
	Loss                                 float64
	Counted                              int32
	Norm, Factor                         float32
	Correction1, Correction2             float32
	Skipped                              int32
	Divergence                           float64
}

// Where parts of a state begin, in bytes.
const (
	stateSteps      = 28
	stateLoss       = 32
	stateCounted    = 40
	stateDivergence = 64
)

// tensorEntry is Tensor of kernels/tensors.cuh.
type tensorEntry struct {
	Weight, First, Second, Gradient, Copy uint64
	Size                                  int64
	FirstBlock, Decays                    int32
	Replaced                              int64
}

// writeTensors fills the list of parameters.
func (t *trainer) writeTensors() error {
	p := t.plan.params
	table := make([]tensorEntry, len(p.list))
	block := int32(0)
	_, replaced := t.plan.grads.replaced()
	for i, param := range p.list {
		at := gpu.Ptr(p.at[i])
		e := tensorEntry{
			Weight: uint64(t.mem.masters + at*4), First: uint64(t.mem.first + at*4), Second: uint64(t.mem.second + at*4),
			Gradient: uint64(t.mem.gradients + at*4), Size: int64(p.spans[param.Name]), FirstBlock: block,
		}
		if t.plan.copies > 0 {
			e.Copy = uint64(t.mem.weights + at*gpu.Ptr(t.dev.elem.Size()))
		}
		if t.o.Optimizer.Decay == engine.DecayAll || param.Decays() {
			e.Decays = 1
		}
		if replaced[param.Name] {
			e.Replaced = 1
		}
		block += int32((p.spans[param.Name] + tensorBlock - 1) / tensorBlock)
		table[i] = e
	}
	return gpu.UploadValues(t.mem.tensors, table)
}

// walk launches a kernel that walks over all parameters.
func (t *trainer) walk(file, name string, rest ...any) error {
	args := append([]any{t.mem.tensors, int32(len(t.plan.params.list))}, rest...)
	return t.dev.launch(t.dev.variant(file, ""), name, gpu.Grid{Blocks: [3]int{int(t.plan.blocks)}, Threads: [3]int{256}}, args...)
}

// optimize is the update: the norm of the gradient, AdamW with clipping, and
// the result set aside before the state is cleared for the next step.
func (t *trainer) optimize() error {
	if err := t.walk("norm.cu", "gradient_squares", t.mem.parts); err != nil {
		return err
	}
	if err := t.dev.launch(t.dev.variant("norm.cu", ""), "gradient_factor", gpu.Grid{Threads: [3]int{1024}},
		t.mem.parts, int32(t.plan.blocks), t.mem.state); err != nil {
		return err
	}
	if err := t.walk("adamw.cu", "adamw", t.mem.state); err != nil {
		return err
	}
	if err := t.dev.stream.Copy(t.mem.result, t.mem.state, stateSize); err != nil {
		return err
	}
	return t.clearState(t.mem.state)
}

func (t *trainer) clearState(state gpu.Ptr) error {
	return t.dev.launch(t.dev.variant("adamw.cu", ""), "adamw_clear", gpu.Grid{}, state)
}

// readState waits for a state and reads it.
func (t *trainer) readState(p gpu.Ptr) (stateValues, error) {
	var s [1]stateValues
	if err := t.dev.stream.Synchronize(); err != nil {
		return s[0], err
	}
	return s[0], gpu.DownloadValues(s[:], p)
}

// copyWeights rounds the weights to what the products read.
func (t *trainer) copyWeights() error {
	if t.plan.copies == 0 {
		return nil
	}
	return t.walk("adamw.cu", "copy_weights")
}

// slot is the array of a slot.
func (t *trainer) slot(s engine.Slot) (gpu.Ptr, error) {
	switch s {
	case engine.SlotWeight:
		return t.mem.masters, nil
	case engine.SlotFirst:
		return t.mem.first, nil
	case engine.SlotSecond:
		return t.mem.second, nil
	}
	return 0, fmt.Errorf("slot %q is unknown", s)
}

// reset clears all that is kept and sets the optimizer's constants.
func (t *trainer) reset() error {
	s := t.dev.stream
	for _, p := range []gpu.Ptr{t.mem.masters, t.mem.first, t.mem.second, t.mem.gradients} {
		if err := s.Zero(p, t.plan.weights); err != nil {
			return err
		}
	}
	if t.plan.copies > 0 {
		if err := s.Zero(t.mem.weights, t.plan.copies); err != nil {
			return err
		}
	}
	opt := t.o.Optimizer
	state := stateValues{Beta1: float32(opt.Beta1), Beta2: float32(opt.Beta2), Eps: float32(opt.Eps),
		Decay: float32(opt.WeightDecay), Clip: float32(opt.Clip), OnNaNSkip: 1}
	for _, p := range []gpu.Ptr{t.mem.state, t.mem.result, t.mem.held} {
		if err := gpu.UploadValues(p, []stateValues{state}); err != nil {
			return err
		}
	}
	if err := t.writeTensors(); err != nil {
		return err
	}
	return s.Synchronize()
}

// loadWeights sets the weights.
func (t *trainer) loadWeights(w engine.Weights) error {
	for i, p := range t.plain {
		data, err := w.Float32(p.Name)
		if err != nil {
			return err
		}
		if err := t.write(t.mem.masters, i, data); err != nil {
			return err
		}
	}
	return t.copyWeights()
}

// write sets parameter i in an array.
func (t *trainer) write(array gpu.Ptr, i int, data []float32) error {
	p := t.plan.params
	data, err := widen(data, t.plain[i], p.list[i])
	if err != nil {
		return err
	}
	return p.upload(array, i, data)
}

// read gets parameter i of an array.
func (t *trainer) read(array gpu.Ptr, i int, dst []float32) error {
	p := t.plan.params
	if p.list[i].Size() == len(dst) {
		return p.download(dst, array, i)
	}
	wide := make([]float32, p.list[i].Size())
	if err := p.download(wide, array, i); err != nil {
		return err
	}
	narrow(dst, t.plain[i], wide, p.list[i])
	return nil
}

// upload sets parameter i in an array of float32.
func (p *params) upload(array gpu.Ptr, i int, data []float32) error {
	at, pitch := array+gpu.Ptr(p.at[i]*4), p.pitch[p.list[i].Name]
	if pitch == 0 {
		return gpu.Upload(at, data)
	}
	around, rows, cols, err := p.around(at, i)
	if err != nil {
		return err
	}
	for r := range rows {
		copy(around[r*pitch:], data[r*cols:(r+1)*cols])
	}
	return gpu.Upload(at, around)
}

// download gets parameter i of an array of float32.
func (p *params) download(dst []float32, array gpu.Ptr, i int) error {
	at, pitch := array+gpu.Ptr(p.at[i]*4), p.pitch[p.list[i].Name]
	if pitch == 0 {
		return gpu.Download(dst, at)
	}
	around, rows, cols, err := p.around(at, i)
	if err != nil {
		return err
	}
	for r := range rows {
		copy(dst[r*cols:(r+1)*cols], around[r*pitch:])
	}
	return nil
}

// around reads all from the first element of parameter i to its last one, with
// what lies beside it.
func (p *params) around(at gpu.Ptr, i int) (data []float32, rows, cols int, err error) {
	rows, cols = rowsOf(p.list[i])
	data = make([]float32, (rows-1)*p.pitch[p.list[i].Name]+cols)
	return data, rows, cols, gpu.Download(data, at)
}

// Read implements engine.Trainer.
func (t *trainer) Read(name string, slot engine.Slot, dst []float32) error {
	array, err := t.slot(slot)
	if err != nil {
		return err
	}
	for i, param := range t.plain {
		if param.Name != name {
			continue
		}
		if len(dst) != param.Size() {
			return fmt.Errorf("reading %s of %s: expected %d elements, found %d", slot, name, param.Size(), len(dst))
		}
		return t.dev.gpu.Do(func() error {
			if err := t.dev.stream.Synchronize(); err != nil {
				return err
			}
			return t.read(array, i, dst)
		})
	}
	return fmt.Errorf("reading %s: the model has no parameter %s", slot, name)
}

// Restore implements engine.Trainer. src is not called on the device's thread,
// so that it may read from another trainer.
func (t *trainer) Restore(steps int, src func(name string, slot engine.Slot) ([]float32, error)) error {
	if err := t.dev.gpu.Do(t.dev.stream.Synchronize); err != nil {
		return err
	}
	for _, slot := range engine.Slots {
		array, err := t.slot(slot)
		if err != nil {
			return err
		}
		for i, param := range t.plain {
			data, err := src(param.Name, slot)
			if err != nil {
				return err
			}
			if err := t.dev.gpu.Do(func() error { return t.write(array, i, data) }); err != nil {
				return fmt.Errorf("restoring %s: %w", slot, err)
			}
		}
	}
	if err := t.dev.gpu.Do(func() error {
		return inOrder(
			func() error { return gpu.Upload(t.mem.state+stateSteps, []int32{int32(steps)}) },
			t.copyWeights,
			t.discard,
		)
	}); err != nil {
		return err
	}
	t.steps, t.counted, t.passes = steps, 0, 0
	return nil
}
