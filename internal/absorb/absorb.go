// Package absorb fits shared key/value heads to the many heads that they stand
// for. A shared head is a basis, and each query head carries its own linear map
// back from it; such a map disappears into the query projection (keys) and into
// the output projection (values), so that the model keeps its tensors and their
// shapes. Keys and values may have owners of their own. docs/absorption.md
// derives it.
//
// Collect runs the unconverted model on calibration rows and keeps second
// moments of its activations only; Fit solves a reduced-rank regression for
// every shared head; Solution makes the converted model's weights.
package absorb

import (
	"fmt"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// DefaultRidge is the ridge in regressions, in units of the mean square of an
// input channel. The inputs of a projection are linearly dependent once they
// stand beside a constant, because a layer norm fixes their weighted sum, so
// some ridge must be; this one is far below what calibration rows can resolve.
const DefaultRidge = 1e-10

// Options are the choices of a fit.
type Options struct {
	// Ridge is in units of the mean square of an input channel; 0 stands for
	// DefaultRidge.
	Ridge float64
	// Weighted counts errors of keys as the queries that meet them turn them
	// into scores, and errors of values as the output projections turn them into
	// the layer's output; otherwise every channel of every query head counts
	// alike.
	Weighted bool
}

// Shares reports whether dst has any head that stands for several of src. A
// conversion without one needs no fit.
func Shares(src, dst model.Config) bool {
	return len(keySide(src, dst).sharing()) > 0 || len(valueSide(src, dst).sharing()) > 0
}

// Check reports why src cannot be converted to dst by absorption. Errors carry
// ui.ExitUsage. Groups of dst must put groups of src together.
func Check(src, dst model.Config) error {
	switch {
	case src.KVIntermediateSize > 0 || dst.KVIntermediateSize > 0:
		return ui.Usagef("start absorb: key_value_mlp: expected linear key and value projections, found two-layer MLPs")
	case dst.SharedKeyRotary != model.RotaryAfter:
		return ui.Usagef("start absorb: shared_key_rotary: expected %s, found %s; keys that a layer sees unrotated do not depend on positions as those do that they are fitted to",
			model.RotaryAfter, dst.SharedKeyRotary)
	case src.Owner.Owners() < src.Layers && src.SharedKeyRotary != model.RotaryAfter:
		return ui.Usagef("start absorb: shared_key_rotary: expected a source that shares keys %s rotary, found %s", model.RotaryAfter, src.SharedKeyRotary)
	}
	return nil
}

// Needed is the least number of calibration tokens: one for each coefficient of
// a regression, hidden size and constant. With fewer, any keys and values are
// fitted exactly and the fit says nothing of other text.
func Needed(src model.Config) int { return src.HiddenSize + 1 }

// Advised is the number of calibration tokens below which a fit is noticeably
// worse: 8 for each coefficient. DefaultTokens is how many are taken where the
// user does not say: 32 for each. docs/absorption.md has the measurements.
func Advised(src model.Config) int { return 8 * Needed(src) }

// DefaultTokens is explained with Advised.
func DefaultTokens(src model.Config) int { return 32 * Needed(src) }

func checkTokens(src model.Config, tokens int) error {
	if tokens >= Needed(src) {
		return nil
	}
	return fmt.Errorf("expected at least %d tokens (hidden size %d and a constant), found %d; %d or more are advised",
		Needed(src), src.HiddenSize, tokens, Advised(src))
}
