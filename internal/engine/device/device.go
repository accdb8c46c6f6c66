// Package device chooses the engine that a name stands for.
package device

import (
	"errors"
	"strconv"
	"strings"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/engine/cuda"
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
	gpu := cuda.Options{Float32: o.Precision == "float32", Recompute: cuda.Recompute(o.Recompute), Warn: o.Warn}
	name, number, numbered := strings.Cut(o.Name, ":")
	switch {
	case name == "cpu" && !numbered:
		return cpu.Open(o.Threads), nil
	case (name == "auto" || name == "") && !numbered:
		if cuda.Available() != nil {
			return cpu.Open(o.Threads), nil
		}
		return cuda.Open(0, gpu)
	case name == "cuda":
		index := 0
		if numbered {
			n, err := strconv.Atoi(number)
			if err != nil || n < 0 {
				break
			}
			index = n
		}
		e, err := cuda.Open(index, gpu)
		if errors.Is(err, cuda.ErrNotBuilt) {
			return nil, ui.Usagef("device %s: %w", o.Name, err)
		}
		return e, err
	}
	return nil, ui.Usagef("device: expected auto, cpu, cuda or cuda:N, found %q", o.Name)
}
