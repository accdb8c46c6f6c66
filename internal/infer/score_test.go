package infer

import (
	"context"
	"errors"
	"slices"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/pack"
	"mlkv/internal/engine/scoretest"
)

// oddScorer answers a request by its own tokens alone and keeps the groups
// that it was given.
type oddScorer struct {
	engine.Scorer
	groups [][]engine.Request
}

func (o *oddScorer) BatchTokens() int { return 4096 }

func answer(r engine.Request) engine.Score {
	var s engine.Score
	for p := r.From; p < len(r.Tokens); p++ {
		s.LogLikelihood = append(s.LogLikelihood, -float32(r.Tokens[p])-float32(r.Tokens[p-1])/1000)
		s.Greedy = append(s.Greedy, r.Tokens[p]%2 == 1)
	}
	return s
}

func (o *oddScorer) Score(_ context.Context, reqs []engine.Request) ([]engine.Score, error) {
	o.groups = append(o.groups, slices.Clone(reqs))
	var out []engine.Score
	for _, r := range reqs {
		out = append(out, answer(r))
	}
	return out, nil
}

// questions makes n questions with up to four choices each.
func questions(n int, seed uint64) []engine.Request {
	return scoretest.Questions{Count: n, Context: 60, Continuation: 9, Vocab: 50, Seed: seed}.Requests()
}

func TestScoreAnswersEveryRequestInBoundedGroups(t *testing.T) {
	for _, limit := range []int{1, 40, 256, 4096} {
		reqs := questions(80, uint64(limit))
		scorer := &oddScorer{}
		got := make([]engine.Score, len(reqs))
		seen := make([]int, len(reqs))
		err := Score(t.Context(), scorer, reqs, ScoreOptions{BatchTokens: limit, Done: func(i int, s engine.Score) error {
			got[i] = s
			seen[i]++
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range reqs {
			if want := answer(r); seen[i] != 1 || !slices.Equal(got[i].LogLikelihood, want.LogLikelihood) || !slices.Equal(got[i].Greedy, want.Greedy) {
				t.Fatalf("limit %d: request %d answered %d times with %v, want %v", limit, i, seen[i], got[i], want)
			}
		}
		for k, g := range scorer.groups {
			size := 0
			for i := range g {
				if i == 0 {
					size += pack.Cost(nil, g[0])
				} else {
					size += pack.Cost(&g[i-1], g[i])
				}
			}
			if len(g) > 1 && size > limit {
				t.Errorf("limit %d: group %d has %d requests of %d tokens", limit, k, len(g), size)
			}
		}
		if first := scorer.groups[0][0]; limit == 1 && len(first.Tokens) < 60 {
			t.Errorf("the first request has %d tokens; the longest family comes first", len(first.Tokens))
		}
	}
}

func TestOrderKeepsChoicesTogether(t *testing.T) {
	reqs := questions(200, 7)
	at := make([]int, len(reqs))
	for k, i := range order(reqs) {
		at[i] = k
	}
	for i := 1; i < len(reqs); i++ {
		if pack.SameContext(reqs[i-1], reqs[i]) && at[i] != at[i-1]+1 {
			t.Fatalf("requests %d and %d have one context but lie at %d and %d", i-1, i, at[i-1], at[i])
		}
	}
}

func TestScoreStopsOnError(t *testing.T) {
	full := errors.New("disk full")
	calls := 0
	err := Score(t.Context(), &oddScorer{}, questions(10, 1), ScoreOptions{Done: func(int, engine.Score) error {
		calls++
		return full
	}})
	if !errors.Is(err, full) || calls != 1 {
		t.Errorf("error %v after %d calls, want %v after 1", err, calls, full)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	scorer := &oddScorer{}
	if err := Score(ctx, scorer, questions(3, 1), ScoreOptions{}); !errors.Is(err, context.Canceled) || scorer.groups != nil {
		t.Errorf("cancelled run returned %v after %d groups", err, len(scorer.groups))
	}
	if err := Score(t.Context(), scorer, []engine.Request{{Tokens: []int32{1, 2}, From: 2}}, ScoreOptions{}); err == nil {
		t.Error("a request without scored tokens was accepted")
	}
}
