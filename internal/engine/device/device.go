// Package device chooses the engine that a name stands for.
package device

import (
	"strings"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/ui"
)

// Open makes the engine for "auto", "cpu", "cuda" or "cuda:N". On the CPU,
// threads are how many it uses, 0 for all.
func Open(name string, threads int) (engine.Engine, error) {
	switch {
	case name == "" || name == "auto" || name == "cpu":
		return cpu.Open(threads), nil
	case name == "cuda" || strings.HasPrefix(name, "cuda:"):
		return nil, ui.Usagef("device: %s: this build of mlkv has no CUDA support; use --device cpu", name)
	}
	return nil, ui.Usagef("device: expected auto, cpu, cuda or cuda:N, found %q", name)
}
