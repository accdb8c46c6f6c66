// Package device chooses the engine that a name stands for.
package device

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/engine/cuda"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/ui"
)

// Options name a device and say how it computes.
type Options struct {
	// Name is auto, cpu, cuda or cuda:N; auto takes the first GPU that can be
	// used, or else the CPU.
	Name string
	// Threads are how many the CPU uses, 0 for all.
	Threads int
	// Precision of a GPU is bf16 or float32; empty means bf16. The CPU
	// computes in float32.
	Precision string
	// Recompute is what a trainer on a GPU computes again in its backward
	// pass: none, mlp or layer; empty means none.
	Recompute string
	// Warn is told of what costs time only. It may be nil.
	Warn func(string)
}

// Open makes the engine.
func Open(o Options) (engine.Engine, error) {
	name, number, numbered := strings.Cut(o.Name, ":")
	switch {
	case name == "cpu" && !numbered:
		return cpu.Open(o.Threads), nil
	case (name == "auto" || name == "") && !numbered:
		if err := cuda.Available(); err != nil {
			o.explain(err)
			return cpu.Open(o.Threads), nil
		}
		return cuda.Open(0, o.cuda())
	case name == "cuda":
		index := 0
		if numbered {
			n, err := strconv.Atoi(number)
			if err != nil || n < 0 {
				break
			}
			index = n
		}
		e, err := cuda.Open(index, o.cuda())
		switch {
		case errors.Is(err, cuda.ErrNotBuilt):
			return nil, ui.Usagef("device %s: %w", o.Name, err)
		case err != nil:
			return nil, fmt.Errorf("device %s: %w", o.Name, err)
		}
		return e, nil
	}
	return nil, ui.Usagef("device: expected auto, cpu, cuda or cuda:N, found %q", o.Name)
}

// Plan makes an engine that plans trainers for a GPU of the given memory in bytes,
// which need not be here.
func Plan(o Options, memory int64) (engine.Engine, error) {
	name, _, _ := strings.Cut(o.Name, ":")
	if name != "cuda" && name != "auto" && name != "" {
		return nil, ui.Usagef("device: a plan for a given memory is for a GPU, found %q", o.Name)
	}
	e, err := cuda.Plan(memory, o.cuda())
	if errors.Is(err, cuda.ErrNotBuilt) {
		return nil, ui.Usagef("plan for a GPU: %w", err)
	}
	return e, err
}

// cuda are the options of a GPU's engine.
func (o Options) cuda() cuda.Options {
	return cuda.Options{Float32: o.Precision == "float32", Recompute: cuda.Recompute(o.Recompute), Warn: o.Warn}
}

// explain warns where a GPU that is there cannot be used.
func (o Options) explain(err error) {
	for _, none := range []error{cuda.ErrNotBuilt, gpu.ErrNoDriver, gpu.ErrNoDevice} {
		if errors.Is(err, none) {
			return
		}
	}
	if o.Warn != nil {
		o.Warn(fmt.Sprintf("the CPU is used: %v", err))
	}
}
