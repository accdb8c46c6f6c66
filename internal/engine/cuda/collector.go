//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"context"
	"errors"
	"fmt"
	"math"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// collector runs a model and keeps what its layers' attention reads and makes.
type collector struct {
	dev     *device
	cfg     model.Config
	tokens  int
	x       *executor
	weights *frozen
	work    *gpu.Arena
	// host is where one layer's results are read to, by their place in observed.
	host [5][]float32
}

// Collector implements engine.Observer. In bf16 mode the results are those that
// the other operations read, rounded to bf16.
func (e *Engine) Collector(cfg model.Config, w engine.Weights, rows, length int) (engine.Collector, error) {
	wide := pad(cfg)
	p, arena, err := e.compile(wide, graph.Options{Rows: rows, Length: length, Output: graph.Activations})
	if err != nil {
		return nil, err
	}
	c := &collector{dev: e.dev, cfg: cfg, tokens: rows * length, x: &executor{device: e.dev, p: p, arena: arena}}
	if err := e.dev.gpu.Do(func() error { return c.open(wide, w) }); err != nil {
		return nil, errors.Join(fmt.Errorf("collecting from %d x %d tokens: %w", rows, length, err), c.Close())
	}
	return c, nil
}

func (c *collector) open(wide model.Config, w engine.Weights) (err error) {
	if err := c.x.prepare(); err != nil {
		return err
	}
	if c.weights, err = c.dev.freeze(c.cfg, w, placeConstants(wide, nil, c.dev.sizes())); err != nil {
		return err
	}
	activations, tokens := c.x.arena.size, roundUp(int64(c.tokens)*4)
	if c.work, err = gpu.NewArena(activations + tokens + gpu.WorkspaceSize); err != nil {
		return err
	}
	c.x.base = bases{
		arena: c.work.At(0, activations), frozen: c.weights, workspace: c.work.At(activations+tokens, gpu.WorkspaceSize),
		inputs: map[*matrix]gpu.Ptr{c.x.p.tokens: c.work.At(activations, tokens)},
	}
	return nil
}

// Collect implements engine.Collector.
func (c *collector) Collect(ctx context.Context, tokens []int32, visit func(engine.Activations) error) error {
	if len(tokens) != c.tokens {
		return fmt.Errorf("collect: expected %d tokens, found %d", c.tokens, len(tokens))
	}
	if err := engine.CheckTokens(tokens, c.cfg.VocabSize); err != nil {
		return err
	}
	if err := c.dev.gpu.Do(func() error {
		return inOrder(
			func() error { return gpu.Upload(c.x.base.inputs[c.x.p.tokens], tokens) },
			c.x.run,
			c.x.stream.Synchronize,
		)
	}); err != nil {
		return err
	}
	for i, l := range c.x.p.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.dev.gpu.Do(func() error { return c.read(l) }); err != nil {
			return err
		}
		// On the device's thread visit could not use the device.
		if err := visit(engine.Activations{
			Layer: i, Input: c.host[0], Query: c.host[1], Key: c.host[2], Value: c.host[3], Output: c.host[4],
		}); err != nil {
			return err
		}
	}
	return nil
}

// read copies one layer's results to the host.
func (c *collector) read(l observed) error {
	for i, m := range []*matrix{l.input, l.query, l.key, l.value, l.output} {
		if m == nil {
			c.host[i] = nil
			continue
		}
		if len(c.host[i]) != m.size() {
			c.host[i] = make([]float32, m.size())
		}
		if err := c.x.float32s(m, c.host[i]); err != nil {
			return err
		}
	}
	return nil
}

// Close implements engine.Collector.
func (c *collector) Close() error {
	return c.dev.gpu.Do(func() error {
		errs := []error{c.dev.stream.Synchronize(), c.weights.free()}
		if c.work != nil {
			errs = append(errs, c.work.Free())
		}
		return errors.Join(errs...)
	})
}

// float32s reads a matrix of activations.
func (x *executor) float32s(m *matrix, dst []float32) error {
	if x.elem == gpu.Float32 {
		return gpu.Download(dst, x.ptr(m))
	}
	raw := make([]uint16, len(dst))
	if err := gpu.Download(raw, x.ptr(m)); err != nil {
		return err
	}
	blas.Chunks(len(raw), 1<<16, func(lo, hi int) {
		for i, b := range raw[lo:hi] {
			dst[lo+i] = fromBF16(b)
		}
	})
	return nil
}

// fromBF16 is the value of a bf16 number, the upper half of a float32.
func fromBF16(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }
