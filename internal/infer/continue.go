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
	rows := openRows{each: each, ended: make([]bool, len(prompts)), open: len(prompts)}
	if c, ok := dec.(engine.Continuer); ok {
		return c.Continue(ctx, prompts, engine.ContinueOptions{Sampling: o.Sampling, Steps: o.MaxTokens, FirstRow: o.FirstRow}, rows.take)
	}
	logits, err := dec.Prefill(ctx, prompts)
	if err != nil {
		return err
	}
	vocab := len(logits) / len(prompts)
	sampler := Sampler{Sampling: o.Sampling}
	next := make([]int32, len(prompts))
	for step := range o.MaxTokens {
		for row := range prompts {
			if rows.ended[row] {
				continue // keeps feeding its last token, which nobody reads
			}
			if next[row], err = sampler.Pick(logits[row*vocab:(row+1)*vocab], Uniform(o.Seed, o.FirstRow+row, step)); err != nil {
				return err
			}
		}
		if more, err := rows.take(next); err != nil || !more || step == o.MaxTokens-1 {
			return err
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

// openRows hands the tokens of rows over until they end.
type openRows struct {
	each  Each
	ended []bool
	open  int // rows that have not ended
}

// take hands over one token a row and reports whether a row goes on.
func (r *openRows) take(tokens []int32) (more bool, err error) {
	for row, token := range tokens {
		if r.ended[row] {
			continue
		}
		if r.ended[row], err = r.each(row, token); err != nil {
			return false, err
		}
		if r.ended[row] {
			r.open--
		}
	}
	return r.open > 0, nil
}
