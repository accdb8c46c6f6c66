//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"context"
	"errors"
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
)

// samplingState is struct Sampling of decode_sample.cu.
type samplingState struct {
	Temperature, TopP float64
	Seed, FirstRow    uint64
	TopK, Step        int32
}

const (
	samplingSize = 40
	samplingStep = 36 // where Step is
)

const (
	ringSlots = 16 // steps whose tokens the host holds
	ahead     = 8  // steps that the device may be ahead of what was read
)

// sample chooses a chunk's tokens.
func (d *decoder) sample(first, rows int) error {
	return d.launchEarly(d.sampleFile(), "decode_sample", gpu.Grid{Blocks: [3]int{rows}, Threads: [3]int{1024}},
		d.mem.logits, int32(d.plan.cfg.VocabSize), d.mem.sampling, int32(first), int32(d.plan.o.Rows), d.mem.tokens, d.ring.Ptr(), int32(ringSlots))
}

// setSampling begins to count draws: that of step 0 is next if a draw comes before a
// step, else that of step 1.
func (d *decoder) setSampling(s engine.Sampling, firstRow int) error {
	return gpu.UploadValues(d.mem.sampling, []samplingState{{
		Temperature: s.Temperature, TopP: s.TopP, TopK: int32(s.TopK), Seed: s.Seed, FirstRow: uint64(firstRow),
	}})
}

var errNotNumbers = errors.New("the model's logits are not numbers: its weights are damaged or overflow")

// steps takes n steps, each a launch of the graph step, and calls each with the tokens
// of every one, until it returns false. The device goes on while the host reads. Tokens
// of draws are numbered from first: 0 if a draw was put into the stream before.
func (d *decoder) steps(ctx context.Context, step *gpu.Graph, first, n int, each func(tokens []int32) (bool, error)) error {
	rows := d.plan.o.Rows
	launched, read := first, first
	if first == 0 {
		if err := d.events[0].Record(d.stream); err != nil {
			return err
		}
		launched = 1
	}
	for read <= n {
		if launched <= n && launched-read < ahead {
			slot := launched % ringSlots
			if err := inOrder(func() error { return step.Launch(d.stream) }, func() error { return d.events[slot].Record(d.stream) }); err != nil {
				return err
			}
			launched++
			d.grow(1)
			continue
		}
		slot := read % ringSlots
		if err := d.events[slot].Synchronize(); err != nil {
			return err
		}
		tokens := d.ring.Slice()[slot*rows : (slot+1)*rows]
		for _, t := range tokens {
			if t < 0 {
				return errNotNumbers
			}
		}
		read++
		more, err := each(tokens)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// Extend implements engine.Decoder.
func (d *decoder) Extend(ctx context.Context, tokens []int32, steps int) ([]int32, error) {
	if err := d.room(steps); err != nil {
		return nil, err
	}
	rows := d.plan.o.Rows
	chosen := make([]int32, rows*steps)
	at := 0
	err := d.gpu.Do(func() error {
		return inOrder(
			func() error { return d.put(tokens) },
			func() error { return d.setSampling(engine.Sampling{}, 0) },
			func() error {
				return d.steps(ctx, d.step, 1, steps, func(tokens []int32) (bool, error) {
					for r, t := range tokens {
						chosen[r*steps+at] = t
					}
					at++
					return true, nil
				})
			},
		)
	})
	return chosen, err
}

// Continue implements engine.Continuer.
func (d *decoder) Continue(ctx context.Context, prompts [][]int32, o engine.ContinueOptions, each func(tokens []int32) (bool, error)) error {
	if o.Steps < 1 {
		return nil
	}
	if err := d.checkPrompts(prompts); err != nil {
		return err
	}
	for r, p := range prompts {
		if len(p)+o.Steps-1 > d.plan.o.MaxSize {
			return fmt.Errorf("prompt %d: %d tokens and %d more exceed the capacity of %d", r, len(p), o.Steps, d.plan.o.MaxSize)
		}
	}
	step := d.step
	if o.Sampling.Temperature > 0 && d.draw != nil {
		step = d.draw
	}
	return d.gpu.Do(func() error {
		return inOrder(
			func() error { return d.readPrompts(ctx, prompts) },
			func() error { return d.setSampling(o.Sampling, o.FirstRow) },
			func() error { return d.project(d.sample) },
			func() error { return d.steps(ctx, step, 0, o.Steps-1, each) },
		)
	})
}
