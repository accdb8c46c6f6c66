package infer

import (
	"context"
	"fmt"

	"mlkv/internal/engine"
)

// Each receives a token as soon as it is chosen, with the row that it
// continues; the row ends there if it returns true.
type Each func(row int, token int32) (end bool, err error)

// ContinueOptions say how far prompts are continued and how tokens are chosen.
type ContinueOptions struct {
	Sampling
	MaxTokens int
	// FirstRow is added to a row's number where it draws from the seed, so
	// that a prompt samples the same in whatever batch it lies.
	FirstRow int
}

// Continue extends every prompt by up to MaxTokens tokens. The decoder has one
// row for each prompt and room for the longest prompt and MaxTokens.
func Continue(ctx context.Context, dec engine.Decoder, prompts [][]int32, o ContinueOptions, each Each) error {
	if o.MaxTokens <= 0 {
		return nil
	}
	for i, p := range prompts {
		if len(p) == 0 {
			return fmt.Errorf("prompt %d: expected at least one token, found none", i)
		}
	}
	logits, err := dec.Prefill(ctx, prompts)
	if err != nil {
		return err
	}
	vocab := len(logits) / len(prompts)
	sampler := Sampler{Sampling: o.Sampling}
	next := make([]int32, len(prompts))
	ended := make([]bool, len(prompts))
	for step := range o.MaxTokens {
		open := 0
		for row := range prompts {
			if ended[row] {
				continue // keeps feeding its last token, which nobody reads
			}
			token, err := sampler.Pick(logits[row*vocab:(row+1)*vocab], Uniform(o.Seed, o.FirstRow+row, step))
			if err != nil {
				return err
			}
			next[row] = token
			if ended[row], err = each(row, token); err != nil {
				return err
			}
			if !ended[row] {
				open++
			}
		}
		if open == 0 || step == o.MaxTokens-1 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if logits, err = dec.Next(ctx, next); err != nil {
			return err
		}
	}
	return nil
}
