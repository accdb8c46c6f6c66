package cpu

import (
	"math/rand/v2"
	"slices"
	"testing"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/engine/scoretest"
	"mlkv/internal/model"
)

// TestScoreDoesNotDependOnNeighbours: a request's score is the same bits in any
// group and order, with the other choices of its question and without, for a
// model whose products go to the library and one whose products do not.
func TestScoreDoesNotDependOnNeighbours(t *testing.T) {
	if !blas.Vector() {
		t.Skip("without the vector kernel, scores depend on the group within rounding")
	}
	wide := model.Plain(2000, 768, 2, 12)
	wide.KVHeads, wide.Owner = 1, model.OwnerMap{0, 0}
	for name, c := range map[string]struct {
		cfg     model.Config
		n, long int
	}{
		"narrow": {small(t, "0_0_2_2", 2, model.RotaryBefore), 40, 45},
		"wide":   {wide, 3, 400},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(0).Scorer(c.cfg, random(c.cfg, 1))
			if err != nil {
				t.Fatal(err)
			}
			reqs := scoretest.Questions{Count: c.n, Context: c.long, Continuation: 12, Vocab: c.cfg.VocabSize, Seed: 5}.Requests()
			score := func(reqs ...engine.Request) []engine.Score {
				t.Helper()
				got, err := s.Score(background, reqs)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			together := score(reqs...)
			same := func(what string, i int, got engine.Score) {
				t.Helper()
				if !slices.Equal(got.LogLikelihood, together[i].LogLikelihood) || !slices.Equal(got.Greedy, together[i].Greedy) {
					t.Errorf("request %d %s: %v, among all others %v", i, what, got.LogLikelihood, together[i].LogLikelihood)
				}
			}
			for i, q := range reqs {
				same("alone", i, score(q)[0])
			}
			order := rand.New(rand.NewPCG(3, 3)).Perm(len(reqs))
			shuffled := make([]engine.Request, len(reqs))
			for k, i := range order {
				shuffled[k] = reqs[i]
			}
			for k, got := range score(shuffled...) {
				same("in another order", order[k], got)
			}
			half := len(reqs) / 2
			for k, got := range append(score(reqs[:half]...), score(reqs[half:]...)...) {
				same("in another group", k, got)
			}
		})
	}
}
