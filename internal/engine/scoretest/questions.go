// Package scoretest makes requests for the tests of what scores them.
package scoretest

import (
	"math/rand/v2"
	"slices"

	"mlkv/internal/engine"
)

// Questions are contexts with one to four continuations each, of random tokens
// and random lengths.
type Questions struct {
	Count        int
	Context      int // most tokens of a context
	Continuation int // most tokens of a continuation
	Vocab        int
	Seed         uint64
}

// Requests lists the continuations of every question in a row.
func (q Questions) Requests() []engine.Request {
	r := rand.New(rand.NewPCG(q.Seed, 9))
	tokens := func(most int) []int32 {
		out := make([]int32, 1+r.IntN(most))
		for i := range out {
			out[i] = r.Int32N(int32(q.Vocab))
		}
		return out
	}
	var out []engine.Request
	for range q.Count {
		context := tokens(q.Context)
		for range 1 + r.IntN(4) {
			out = append(out, engine.Request{Tokens: append(slices.Clone(context), tokens(q.Continuation)...), From: len(context)})
		}
	}
	return out
}
