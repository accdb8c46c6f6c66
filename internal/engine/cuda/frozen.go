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
	from, table := staging.At(0, int64(largest)*4), staging.At(int64(largest)*4, tensorSize)
	for i, p := range cfg.Params() {
		data, err := w.Float32(p.Name)
		if err != nil {
			return err
		}
		wide := f.at.all.list[i]
		if data, err = widen(data, p, wide); err != nil {
			return err
		}
		m := &matrix{role: weight, params: []string{p.Name}}
		to := f.ptr(m)
		if f.at.vectors == nil {
			if err := gpu.Upload(to, data); err != nil {
				return err
			}
			continue
		}
		entry := tensorEntry{Weight: uint64(from), Copy: uint64(to), Size: int64(wide.Size())}
		blocks := (wide.Size() + tensorBlock - 1) / tensorBlock
		if err := inOrder(
			func() error { return gpu.Upload(from, data) },
			func() error { return gpu.UploadValues(table, []tensorEntry{entry}) },
			func() error {
				return d.launch(d.variant("adamw.cu", ""), "copy_weights", gpu.Grid{Blocks: [3]int{blocks}, Threads: [3]int{256}}, table, int32(1))
			},
			d.stream.Synchronize,
		); err != nil {
			return err
		}
		if len(p.Shape) == 1 {
			m.role = master
			if err := gpu.Upload(f.ptr(m), data); err != nil {
				return err
			}
		}
	}
	return nil
}

// ptr is the address of a weight or master.
func (f *frozen) ptr(m *matrix) gpu.Ptr { return f.arena.At(f.at.offset(m), 0) }

func (f *frozen) free() error {
	if f == nil {
		return nil
	}
	return f.arena.Free()
}
