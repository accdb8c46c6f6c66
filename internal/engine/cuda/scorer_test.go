//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/engine/pack"
	"mlkv/internal/engine/scoretest"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// scoreModels are models whose products take different kernels.
func scoreModels(t testing.TB) map[string]model.Config {
	list := gpuModels(t)
	wide := model.Plain(50304, 768, 2, 12)
	wide.KVHeads, wide.Owner, wide.IntermediateSize = 1, model.OwnerMap{0, 0}, 3809
	models := map[string]model.Config{"wide": wide}
	for _, name := range []string{"plain", "tied", "sequential", "before rotary", "key value mlp", "head size 32", "head size 80", "head size 128", "head size 256"} {
		models[name] = list[name]
	}
	return models
}

func openScorer(t testing.TB, e engine.Engine, cfg model.Config, w engine.Weights) engine.Scorer {
	t.Helper()
	s, err := e.Scorer(cfg, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestScoreDoesNotDependOnNeighbours: a request's score is the same bits in any
// group and order, with the other choices of its question and without.
func TestScoreDoesNotDependOnNeighbours(t *testing.T) {
	for name, cfg := range scoreModels(t) {
		for _, float32s := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/float32 %v", name, float32s), func(t *testing.T) {
				e := openGPU(t, Options{Float32: float32s})
				w := randomWeights(cfg, 3)
				scaleDown(w, cfg)
				s := openScorer(t, e, cfg, w)
				reqs := scoretest.Questions{Count: 90, Context: 300, Continuation: 40, Vocab: cfg.VocabSize, Seed: 5}.Requests()
				score := func(reqs ...engine.Request) []engine.Score {
					t.Helper()
					got, err := s.Score(t.Context(), reqs)
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
				for i := 0; i < len(reqs); i += 3 {
					same("alone", i, score(reqs[i])[0])
				}
				order := rand.New(rand.NewPCG(3, 3)).Perm(len(reqs))
				shuffled := make([]engine.Request, len(reqs))
				for k, i := range order {
					shuffled[k] = reqs[i]
				}
				for k, got := range score(shuffled...) {
					same("in another order", order[k], got)
				}
				third := len(reqs) / 3
				for k, got := range append(score(reqs[:third]...), score(reqs[third:]...)...) {
					same("in another group", k, got)
				}
			})
		}
	}
}

// TestScoresMatchTheCPU holds log-likelihoods to the CPU's.
func TestScoresMatchTheCPU(t *testing.T) {
	for name, cfg := range scoreModels(t) {
		w := randomWeights(cfg, 3)
		scaleDown(w, cfg)
		reqs := scoretest.Questions{Count: 5, Context: 200, Continuation: 40, Vocab: cfg.VocabSize, Seed: 6}.Requests()
		want, err := openScorer(t, cpu.Open(0), cfg, w).Score(t.Context(), reqs)
		if err != nil {
			t.Fatal(err)
		}
		for _, mode := range []struct {
			o         Options
			tolerance float64 // of one token, relative to the range of log-likelihoods
		}{{Options{Float32: true}, 1e-5}, {Options{}, 2e-5}} {
			t.Run(fmt.Sprintf("%s/float32 %v", name, mode.o.Float32), func(t *testing.T) {
				got, err := openScorer(t, openGPU(t, mode.o), cfg, w).Score(t.Context(), reqs)
				if err != nil {
					t.Fatal(err)
				}
				worst, most := 0.0, 0.0
				for i := range want {
					for k, l := range want[i].LogLikelihood {
						most = max(most, math.Abs(float64(l)))
						if d := math.Abs(float64(got[i].LogLikelihood[k] - l)); !(d <= worst) {
							worst = d
						}
					}
				}
				t.Logf("deviates by %.2g where log-likelihoods reach %.3g", worst, most)
				if !(worst <= mode.tolerance*most) {
					t.Errorf("deviates by %g where log-likelihoods reach %g", worst, most)
				}
			})
		}
	}
}

// TestDivideCoversEveryQuery follows the blocks of queries back to the segments.
func TestDivideCoversEveryQuery(t *testing.T) {
	batch := pack.Batch{Segments: []op.Segment{{First: 0, Length: 130}, {First: 130, Length: 5, PrefixLength: 130}, {First: 135, Length: 80, PrefixLength: 130}, {First: 215, Length: 16}}}
	for _, most := range []int{32, 64} {
		narrow, wide := divide(batch, most)
		seen := map[int32]int{}
		for _, list := range [][]queries{narrow, wide} {
			for _, q := range list {
				for i := range q.Count {
					seen[q.First+q.Skipped+i]++
				}
				if int(q.Count) > most {
					t.Errorf("a block of %d queries", q.Count)
				}
			}
		}
		for i := range int32(231) {
			if seen[i] != 1 {
				t.Errorf("blocks of %d: query %d is in %d", most, i, seen[i])
			}
		}
		for _, q := range narrow {
			if q.Count > warpQueries {
				t.Errorf("a narrow block of %d queries", q.Count)
			}
		}
	}
}

// BenchmarkScore times questions of four choices, as those of the tasks are, on
// the Pythia-160M shape.
func BenchmarkScore(b *testing.B) {
	cfg, err := model.Sized("pythia-160m")
	if err != nil {
		b.Fatal(err)
	}
	w := randomWeights(cfg, 1)
	for _, o := range []Options{{Float32: true}, {}} {
		for _, longest := range []int{120, 2000} {
			b.Run(fmt.Sprintf("float32 %v to %d tokens", o.Float32, longest), func(b *testing.B) {
				s := openScorer(b, openGPU(b, o), cfg, w)
				reqs := scoretest.Questions{Count: 30 * 8192 / longest, Context: longest, Continuation: 40, Vocab: cfg.VocabSize, Seed: 1}.Requests()
				tokens, picked := 0, 0
				for i, r := range reqs {
					var before *engine.Request
					if i > 0 {
						before = &reqs[i-1]
					}
					tokens += pack.Cost(before, r)
					picked += len(r.Tokens) - r.From
				}
				start := time.Now()
				for b.Loop() {
					if _, err := s.Score(b.Context(), reqs); err != nil {
						b.Fatal(err)
					}
				}
				seconds := time.Since(start).Seconds() / float64(b.N)
				b.ReportMetric(float64(tokens)/seconds, "tokens/s")
				b.ReportMetric(float64(picked)/seconds, "scored/s")
			})
		}
	}
}
