package pack

import (
	"slices"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/scoretest"
)

// TestPackHoldsEveryRequest follows the segments of every batch back to the
// tokens and targets of its requests.
func TestPackHoldsEveryRequest(t *testing.T) {
	for _, l := range []Limits{{TokenStep: 1, PickedStep: 1}, {TokenStep: 64, PickedStep: 16}, {Tokens: 64, TokenStep: 64, PickedStep: 8}, {Tokens: 256, TokenStep: 256, PickedStep: 64}} {
		reqs := scoretest.Questions{Count: 60, Context: 40, Continuation: 9, Vocab: 50, Seed: 3}.Requests()
		batches, err := Pack(reqs, 50, l)
		if err != nil {
			t.Fatal(err)
		}
		i, computed := 0, 0
		for _, b := range batches {
			if len(b.Tokens)%l.TokenStep != 0 || len(b.Index)%l.PickedStep != 0 || len(b.Index) != len(b.Targets) || len(b.Positions) != len(b.Tokens) {
				t.Fatalf("%+v: a batch of %d tokens, %d positions, %d picks of %d targets", l, len(b.Tokens), len(b.Positions), len(b.Index), len(b.Targets))
			}
			if l.Tokens > 0 && len(b.Tokens) > l.Tokens {
				t.Errorf("%+v: a batch of %d tokens", l, len(b.Tokens))
			}
			seen := history(t, b)
			at := 0
			for _, r := range reqs[i : i+b.Requests] {
				for p := r.From; p < len(r.Tokens); p++ {
					if got := seen[b.Index[at]]; !slices.Equal(got, r.Tokens[:p]) || b.Targets[at] != r.Tokens[p] {
						t.Fatalf("%+v: request %d, token %d: scored after %v, want %v", l, i, p, got, r.Tokens[:p])
					}
					at++
				}
				i++
			}
			for ; at < len(b.Targets); at++ {
				if b.Targets[at] != engine.Ignore {
					t.Fatalf("%+v: the filling has target %d", l, b.Targets[at])
				}
			}
			computed += len(b.Tokens)
		}
		if i != len(reqs) {
			t.Errorf("%+v: %d of %d requests", l, i, len(reqs))
		}
		if l.TokenStep == 1 {
			want := 0
			var before *engine.Request
			for k := range reqs {
				want += Cost(before, reqs[k])
				before = &reqs[k]
			}
			if computed != want {
				t.Errorf("%d tokens to compute, want %d", computed, want)
			}
		}
	}
}

// history is what every token of a batch sees: its sequence up to itself.
func history(t *testing.T, b Batch) [][]int32 {
	t.Helper()
	out := make([][]int32, len(b.Tokens))
	for _, s := range b.Segments {
		for i := range s.Length {
			at := s.First + i
			seen := slices.Clone(b.Tokens[s.PrefixFirst : s.PrefixFirst+s.PrefixLength])
			seen = append(seen, b.Tokens[s.First:at+1]...)
			if out[at] != nil || int(b.Positions[at]) != len(seen)-1 {
				t.Fatalf("token %d stands at position %d after %d tokens, or in two segments", at, b.Positions[at], len(seen)-1)
			}
			out[at] = seen
		}
	}
	for at, seen := range out {
		if seen == nil {
			t.Fatalf("token %d is in no segment", at)
		}
	}
	return out
}

func TestPackRefuses(t *testing.T) {
	for name, r := range map[string]engine.Request{
		"no scored token": {Tokens: []int32{1, 2}, From: 2},
		"no context":      {Tokens: []int32{1, 2}, From: 0},
		"unknown token":   {Tokens: []int32{1, 50}, From: 1},
		"too long":        {Tokens: make([]int32, 66), From: 1},
	} {
		if _, err := Pack([]engine.Request{r}, 50, Limits{Tokens: 64, TokenStep: 64, PickedStep: 8}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
