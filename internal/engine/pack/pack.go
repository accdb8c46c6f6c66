// Package pack lays scoring requests out as one stream of tokens without
// padding between them. The context that consecutive requests have in common,
// as the choices of a question do, stands there once.
package pack

import (
	"fmt"
	"slices"

	"mlkv/internal/engine"
	"mlkv/internal/op"
)

// Batch is a stream of tokens with what is asked of it.
type Batch struct {
	Requests  int
	Tokens    []int32 // [N], filled with token 0
	Positions []int32 // [N]: of each token in its request
	// Segments cover the stream. Every request is a segment for its context,
	// which is everything before the first scored token, and one for the rest:
	// so what is computed for a request is the same whether others share its
	// context or not.
	Segments []op.Segment
	Index    []int32 // [P]: positions in the stream whose next token is scored, request by request
	Targets  []int32 // [P]: those tokens; engine.Ignore in the filling
}

// fillSegment bounds a segment of filling.
const fillSegment = 64

// Limits are the sizes of batches.
type Limits struct {
	// Tokens and Picked are how many tokens and scored positions a batch holds
	// at most; 0 for any number.
	Tokens, Picked int
	// Tokens and scored positions are filled up to multiples of these.
	TokenStep, PickedStep int
}

// Pack lays requests out in their order in as few batches as the limits allow.
func Pack(reqs []engine.Request, vocab int, l Limits) ([]Batch, error) {
	var out []Batch
	for first := 0; first < len(reqs); {
		b := builder{Limits: l}
		for i, r := range reqs[first:] {
			if err := check(first+i, r, vocab, l); err != nil {
				return nil, err
			}
			if !b.add(r) {
				break
			}
		}
		first += b.Requests
		b.fill()
		out = append(out, b.Batch)
	}
	return out, nil
}

func check(i int, r engine.Request, vocab int, l Limits) error {
	if r.From < 1 || r.From >= len(r.Tokens) {
		return fmt.Errorf("request %d: scoring from token %d of %d: expected 1 to %d", i, r.From, len(r.Tokens), len(r.Tokens)-1)
	}
	if n := len(r.Tokens) - 1; l.Tokens > 0 && n > l.Tokens || l.Picked > 0 && n+1-r.From > l.Picked {
		return fmt.Errorf("request %d: %d tokens of which %d are scored; the scorer takes %d and %d at most", i, n, n+1-r.From, l.Tokens, l.Picked)
	}
	if err := engine.CheckTokens(r.Tokens, vocab); err != nil {
		return fmt.Errorf("request %d: %w", i, err)
	}
	return nil
}

// builder makes a batch.
type builder struct {
	Limits
	Batch
	last    engine.Request // the request added before
	context op.Segment     // its context
}

// add appends a request unless the batch has no room for it.
func (b *builder) add(r engine.Request) bool {
	shared := b.Requests > 0 && SameContext(b.last, r)
	need := len(r.Tokens) - 1
	if shared {
		need -= r.From
	}
	if b.Limits.Tokens > 0 && len(b.Batch.Tokens)+need > b.Limits.Tokens ||
		b.Picked > 0 && len(b.Index)+len(r.Tokens)-r.From > b.Picked {
		return false
	}
	if !shared {
		b.context = b.segment(r.Tokens[:r.From], op.Segment{})
	}
	rest := b.segment(r.Tokens[r.From:len(r.Tokens)-1], b.context)
	b.Index = append(b.Index, int32(b.context.First+b.context.Length-1))
	for i := range rest.Length {
		b.Index = append(b.Index, int32(rest.First+i))
	}
	b.Targets = append(b.Targets, r.Tokens[r.From:]...)
	b.last = r
	b.Requests++
	return true
}

// Sequence lays out one sequence, every position of which is picked and none
// scored.
func Sequence(tokens []int32, l Limits) Batch {
	b := builder{Limits: l}
	b.segment(tokens, op.Segment{})
	for i := range tokens {
		b.Index, b.Targets = append(b.Index, int32(i)), append(b.Targets, engine.Ignore)
	}
	b.fill()
	return b.Batch
}

// segment appends tokens that come after a prefix.
func (b *builder) segment(tokens []int32, prefix op.Segment) op.Segment {
	s := op.Segment{First: len(b.Batch.Tokens), Length: len(tokens), PrefixFirst: prefix.First, PrefixLength: prefix.Length}
	for i := range tokens {
		b.Positions = append(b.Positions, int32(prefix.Length+i))
	}
	b.Batch.Tokens = append(b.Batch.Tokens, tokens...)
	if len(tokens) > 0 {
		b.Segments = append(b.Segments, s)
	}
	return s
}

// fill brings the batch to its steps.
func (b *builder) fill() {
	for rest := roundUp(len(b.Batch.Tokens), b.TokenStep) - len(b.Batch.Tokens); rest > 0; rest -= fillSegment {
		b.segment(make([]int32, min(rest, fillSegment)), op.Segment{})
	}
	rest := roundUp(len(b.Index), b.PickedStep) - len(b.Index)
	b.Index = append(b.Index, make([]int32, rest)...)
	for range rest {
		b.Targets = append(b.Targets, engine.Ignore)
	}
}

func roundUp(n, step int) int { return (n + step - 1) / step * step }

// SameContext reports whether two requests have the same tokens before the
// first scored one.
func SameContext(a, b engine.Request) bool {
	return a.From == b.From && slices.Equal(a.Tokens[:a.From], b.Tokens[:b.From])
}

// Cost is the number of tokens to compute for a request that comes after
// another one, nil for none.
func Cost(before *engine.Request, r engine.Request) int {
	if before != nil && SameContext(*before, r) {
		return len(r.Tokens) - 1 - r.From
	}
	return len(r.Tokens) - 1
}

// Answers cuts the scores of a batch's positions into those of its requests.
// at gives log-likelihood and greedy flag of a place in Index.
func Answers(reqs []engine.Request, at func(i int) (float32, bool)) []engine.Score {
	out := make([]engine.Score, len(reqs))
	i := 0
	for k, r := range reqs {
		n := len(r.Tokens) - r.From
		out[k] = engine.Score{LogLikelihood: make([]float32, n), Greedy: make([]bool, n)}
		for j := range n {
			out[k].LogLikelihood[j], out[k].Greedy[j] = at(i)
			i++
		}
	}
	return out
}
