// Package infer runs a trained model: it scores sequences in groups of bounded
// size and continues prompts token by token, on whatever engine is given.
package infer

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"mlkv/internal/engine"
	"mlkv/internal/engine/pack"
)

// ScoreOptions say how requests are grouped and where answers go.
type ScoreOptions struct {
	// BatchTokens bounds the tokens of one group, a context that requests share
	// counted once; 0 takes what the scorer asks for. A request that is longer
	// makes a group of its own.
	BatchTokens int
	// Done receives each answer with the index of its request, in the order of
	// scoring, while the next group is scored. Its error ends the run.
	Done func(i int, s engine.Score) error
}

// Score answers every request, longest first, so that memory is at its peak at
// once. A caller that stopped before may pass only what is left: an answer does
// not depend on its group.
func Score(ctx context.Context, scorer engine.Scorer, reqs []engine.Request, o ScoreOptions) error {
	for i, r := range reqs {
		if r.From < 1 || r.From >= len(r.Tokens) {
			return fmt.Errorf("request %d: scored tokens begin at %d; expected 1 to %d", i, r.From, len(r.Tokens)-1)
		}
	}
	limit := o.BatchTokens
	if limit <= 0 {
		limit = scorer.BatchTokens()
	}
	work, ctx := errgroup.WithContext(ctx)
	answers, failed := make(chan answered, 1), make(chan struct{})
	work.Go(func() error {
		defer close(answers)
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
			select {
			case answers <- answered{group, scores}:
			case <-failed:
				return nil
			}
		}
		return nil
	})
	work.Go(func() error {
		defer close(failed)
		for a := range answers {
			for k, i := range a.group {
				if err := o.Done(i, a.scores[k]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return work.Wait()
}

// answered is a group with its scores.
type answered struct {
	group  []int
	scores []engine.Score
}

// groups orders the indices of reqs and cuts them where the next request would
// make the group exceed limit tokens.
func groups(reqs []engine.Request, limit int) [][]int {
	var out [][]int
	var group []int
	size := 0
	for _, i := range order(reqs) {
		var before *engine.Request
		if len(group) > 0 {
			before = &reqs[group[len(group)-1]]
		}
		cost := pack.Cost(before, reqs[i])
		if len(group) > 0 && size+cost > limit {
			out, group, size, cost = append(out, group), nil, 0, pack.Cost(nil, reqs[i])
		}
		group, size = append(group, i), size+cost
	}
	if len(group) > 0 {
		out = append(out, group)
	}
	return out
}

// order sorts families of requests by their longest member, descending. A
// family is a run of requests with one context, as the choices of a question
// are; it stays together, so that the engine computes the context once.
func order(reqs []engine.Request) []int {
	type place struct{ longest, family, index int }
	places := make([]place, len(reqs))
	for i := range reqs {
		places[i] = place{len(reqs[i].Tokens), i, i}
		if i > 0 && pack.SameContext(reqs[i-1], reqs[i]) {
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
