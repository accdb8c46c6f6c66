//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"errors"
	"fmt"
	"slices"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// Engine is a GPU as an engine.Engine.
type Engine struct {
	dev *device
	o   Options
}

// Open takes the GPU of the given number. Its error says why it cannot be used.
func Open(index int, o Options) (engine.Engine, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	d, err := gpu.Open(index)
	if err != nil {
		return nil, err
	}
	dev := &device{gpu: d, info: d.Info(), elem: gpu.BFloat16, plans: map[gpu.Product]matmul{}, tables: map[tableKey]*gpu.Arena{}}
	if o.Float32 {
		dev.elem = gpu.Float32
	}
	if err := d.Do(func() error { return dev.open(o) }); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return &Engine{dev, o}, nil
}

func (d *device) open(o Options) error {
	compiler, err := gpu.NewCompiler(d.info, gpu.OpenCache("kernels", o.Warn))
	if err != nil {
		return err
	}
	d.kernels = newKernelSet(compiler)
	if d.blas, err = gpu.NewBlas(d.info, gpu.OpenCache("matmul", o.Warn)); err != nil {
		return err
	}
	d.plan = func(p gpu.Product) (matmul, error) { return d.blas.Plan(d.stream, p) }
	d.stream, err = gpu.NewStream()
	return err
}

// Close implements engine.Engine. Trainers and scorers must be closed before.
func (e *Engine) Close() error {
	d := e.dev
	err := d.gpu.Do(func() error {
		var errs []error
		for _, m := range d.plans {
			m.Close()
		}
		for _, t := range d.tables {
			errs = append(errs, t.Free())
		}
		return errors.Join(append(errs, d.kernels.close(), d.blas.Close(), d.stream.Destroy())...)
	})
	return errors.Join(err, d.gpu.Close())
}

// Info implements engine.Engine.
func (e *Engine) Info() engine.Info {
	d := e.dev
	info := engine.Info{
		Device: fmt.Sprintf("cuda:%d", d.info.Index), Name: d.info.Name, Peak: d.info.PeakBF16(), Total: d.info.Memory, CacheBits: 8 * int(d.elem.Size()),
		Backend: fmt.Sprintf("CUDA %s, NVRTC %s, cuBLASLt %d, %v", d.info.Driver, d.kernels.compiler.Version(), d.blas.Version(), d.elem),
	}
	// Without an answer the memory stays unknown.
	_ = d.gpu.Do(func() (err error) {
		info.Free, info.Total, err = gpu.FreeMemory()
		info.Used = info.Total - info.Free
		return err
	})
	return info
}

// checkModel reports what no kernel does.
func (e *Engine) checkModel(cfg model.Config) error {
	sizes := []int{32, 64, 80, 128, 256}
	if e.o.Float32 {
		sizes = append(sizes, 16)
	}
	if !slices.Contains(sizes, cfg.HeadSize()) {
		return fmt.Errorf("the CUDA engine has no attention for head size %d (hidden_size / num_attention_heads); it has %v", cfg.HeadSize(), sizes)
	}
	for _, f := range []struct {
		name string
		v    int
	}{
		{"vocab_size", cfg.VocabSize}, {"hidden_size", cfg.HiddenSize},
	} {
		if f.v%lanes != 0 {
			return fmt.Errorf("%s: the CUDA engine needs a multiple of %d, found %d", f.name, lanes, f.v)
		}
	}
	if cfg.VocabSize > 1<<16 {
		return fmt.Errorf("vocab_size: the CUDA engine takes at most %d, found %d", 1<<16, cfg.VocabSize)
	}
	return nil
}

// compile builds a graph and turns it into a program with its memory. What shows
// every layer's inner results is not fused, as these would then be overwritten.
func (e *Engine) compile(cfg model.Config, o graph.Options) (*program, *arena, error) {
	return e.compileBeside(cfg, o, func([]string) bool { return false })
}

// compileBeside is compile where parameters that beside allows may lie side by
// side.
func (e *Engine) compileBeside(cfg model.Config, o graph.Options, beside func(params []string) bool) (*program, *arena, error) {
	if err := e.checkModel(cfg); err != nil {
		return nil, nil, err
	}
	if o.Distill != nil {
		if err := e.checkModel(o.Distill.Teacher); err != nil {
			return nil, nil, fmt.Errorf("teacher: %w", err)
		}
	}
	g, err := graph.Build(cfg, o)
	if err != nil {
		return nil, nil, err
	}
	p, err := trace(g)
	if err != nil {
		return nil, nil, err
	}
	if o.Output != graph.Activations {
		fuse(p, cfg, beside)
	}
	recompute(p, e.o.Recompute)
	needScratch(p, e.dev.sizes(), e.dev.info)
	if e.dev.pairs {
		needPairs(p)
	}
	return p, place(p, e.dev.sizes()), nil
}
