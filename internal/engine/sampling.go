package engine

import (
	"context"
	"fmt"
	"math"
)

// Sampling says how the next token is chosen from logits: temperature first,
// then the TopK most likely tokens, then the fewest of those that hold TopP of
// the probability.
type Sampling struct {
	Temperature float64 // 0 takes the most likely token
	TopK        int     // 0 keeps all
	TopP        float64 // 1 (or 0) keeps all
	Seed        uint64
}

// Validate reports the first setting that makes no sense.
func (s Sampling) Validate() error {
	switch {
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0):
		return fmt.Errorf("temperature: expected 0 or more, found %g", s.Temperature)
	case s.TopK < 0:
		return fmt.Errorf("top-k: expected 0 or more, found %d", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return fmt.Errorf("top-p: expected 0 to 1, found %g", s.TopP)
	}
	return nil
}

// Continuer is a Decoder that chooses tokens on its device, so that logits never
// leave it and the device need not wait for the host.
type Continuer interface {
	Decoder
	// Continue empties the cache, reads a prompt for each row and extends all
	// rows by steps tokens. each receives the tokens of every step, [rows], in
	// order; it must not use the decoder, and ends the work by returning
	// false. The device may be some steps ahead of it. Row r's draw of step s
	// is that of Seed, row FirstRow+r and step s (infer.Uniform).
	Continue(ctx context.Context, prompts [][]int32, o ContinueOptions, each func(tokens []int32) (more bool, err error)) error
}

// ContinueOptions say how far rows are extended and how tokens are chosen.
type ContinueOptions struct {
	Sampling
	Steps    int
	FirstRow int
}
