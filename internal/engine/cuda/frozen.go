//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"errors"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// frozen are a model's parameters on the device that no step changes.
type frozen struct {
	at    *constants
	arena *gpu.Arena
}

// freeze copies the parameters of a model to the device and rounds them there to
// the type of activations. at places those of the padded model.
func (d *device) freeze(cfg model.Config, w engine.Weights, at *constants) (*frozen, error) {
	arena, err := gpu.NewArena(at.size)
	if err != nil {
		return nil, err
	}
	f := &frozen{at, arena}
	if err := f.load(d, cfg, w); err != nil {
		return nil, errors.Join(err, f.free())
	}
	return f, nil
}

func (f *frozen) load(d *device, cfg model.Config, w engine.Weights) error {
	if err := d.stream.Zero(f.arena.At(0, f.at.size), f.at.size); err != nil {
		return err
	}
	if err := d.stream.Synchronize(); err != nil {
		return err
	}
	largest := 0
	for _, p := range f.at.all.list {
		largest = max(largest, p.Size())
	}
	staging, err := gpu.NewArena(int64(largest)*4 + tensorSize)
	if err != nil {
		return err
	}
	defer staging.Free()
	for i, p := range cfg.Params() {
		data, err := w.Float32(p.Name)
		if err != nil {
			return err
		}
		wide := f.at.all.list[i]
		if data, err = widen(data, p, wide); err != nil {
			return err
		}
		to := f.ptr(&matrix{role: weight, params: []string{p.Name}})
		switch {
		case d.pairs && len(p.Shape) == 2:
			err = d.uploadPairs(to, data, wide, staging)
		case f.at.vectors == nil:
			err = gpu.Upload(to, data)
		default:
			err = d.uploadRounded(to, data, staging)
		}
		if err != nil {
			return err
		}
		if f.at.vectors != nil && len(p.Shape) == 1 {
			if err := gpu.Upload(f.ptr(&matrix{role: master, params: []string{p.Name}}), data); err != nil {
				return err
			}
		}
	}
	return nil
}

// uploadRounded copies numbers to the device in the type of activations. The
// staging memory holds them and a tensor's description.
func (d *device) uploadRounded(to gpu.Ptr, data []float32, staging *gpu.Arena) error {
	size := int64(len(data)) * 4
	from, table := staging.At(0, size), staging.At(staging.Size()-tensorSize, tensorSize)
	entry := tensorEntry{Weight: uint64(from), Copy: uint64(to), Size: int64(len(data))}
	blocks := (len(data) + tensorBlock - 1) / tensorBlock
	return inOrder(
		func() error { return gpu.Upload(from, data) },
		func() error { return gpu.UploadValues(table, []tensorEntry{entry}) },
		func() error {
			return d.launch(d.variant("adamw.cu", ""), "copy_weights", gpu.Grid{Blocks: [3]int{blocks}, Threads: [3]int{256}}, table, int32(1))
		},
		d.stream.Synchronize,
	)
}

// uploadPairs copies a matrix to the device as pairs.
func (d *device) uploadPairs(to gpu.Ptr, data []float32, p model.Param, staging *gpu.Arena) error {
	rows, cols := rowsOf(p)
	from := staging.At(0, int64(len(data))*4)
	return inOrder(
		func() error { return gpu.Upload(from, data) },
		func() error { return d.splitPairs(from, to, rows, cols, cols, true) },
		d.stream.Synchronize,
	)
}

// ptr is the address of a weight or master.
func (f *frozen) ptr(m *matrix) gpu.Ptr { return f.arena.At(f.at.offset(m), 0) }

func (f *frozen) free() error {
	if f == nil {
		return nil
	}
	return f.arena.Free()
}
