// Package infer runs a trained model: it scores sequences in groups of bounded
// size and continues prompts token by token, on whatever engine is given.
package infer

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"mlkv/internal/engine"
)

// DefaultBatchTokens bounds a group of requests where the caller does not.
const DefaultBatchTokens = 4096

// ScoreOptions say how requests are grouped and where answers go.
type ScoreOptions struct {
	// BatchTokens bounds requests x longest request of one group; 0 takes
	// DefaultBatchTokens. A longer request makes a group of its own.
	BatchTokens int
	// Done receives each answer with the index of its request as soon as the
	// group is scored, in the order of scoring. Its error ends the run.
	Done func(i int, s engine.Score) error
}

// Score answers every request, longest first, so that a group holds requests
// of like length and memory is at its peak at once. A caller that stopped
// before may pass only what is left: an answer does not depend on its group.
func Score(ctx context.Context, scorer engine.Scorer, reqs []engine.Request, o ScoreOptions) error {
	for i, r := range reqs {
		if r.From < 1 || r.From >= len(r.Tokens) {
			return fmt.Errorf("request %d: scored tokens begin at %d; expected 1 to %d", i, r.From, len(r.Tokens)-1)
		}
	}
	limit := o.BatchTokens
	if limit <= 0 {
		limit = DefaultBatchTokens
	}
	for _, group := range groups(reqs, limit) {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch := make([]engine.Request, len(group))
		for k, i := range group {
			batch[k] = reqs[i]
		}
		scores, err := scorer.Score(ctx, batch)
		if err != nil {
			return err
		}
		for k, i := range group {
			if err := o.Done(i, scores[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

// groups orders the indices of reqs and cuts them where the next request would
// make the padded group exceed limit tokens.
func groups(reqs []engine.Request, limit int) [][]int {
	var out [][]int
	var group []int
	longest := 0
	for _, i := range order(reqs) {
		l := max(longest, len(reqs[i].Tokens))
		if len(group) > 0 && l*(len(group)+1) > limit {
			out, group, l = append(out, group), nil, len(reqs[i].Tokens)
		}
		group, longest = append(group, i), l
	}
	if len(group) > 0 {
		out = append(out, group)
	}
	return out
}

// order sorts families of requests by their longest member, descending. A
// family is a run of requests with one context, as the choices of a question
// are; it stays together, so that an engine may compute the context once.
func order(reqs []engine.Request) []int {
	type place struct{ longest, family, index int }
	places := make([]place, len(reqs))
	for i := range reqs {
		places[i] = place{len(reqs[i].Tokens), i, i}
		if i > 0 && sameContext(reqs[i-1], reqs[i]) {
			places[i].family = places[i-1].family
			head := &places[places[i].family]
			head.longest = max(head.longest, len(reqs[i].Tokens))
		}
	}
	for i := range places {
		places[i].longest = places[places[i].family].longest
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(b.longest, a.longest), cmp.Compare(a.family, b.family), cmp.Compare(a.index, b.index))
	})
	out := make([]int, len(places))
	for k, p := range places {
		out[k] = p.index
	}
	return out
}

func sameContext(a, b engine.Request) bool {
	return a.From == b.From && slices.Equal(a.Tokens[:a.From], b.Tokens[:b.From])
}
