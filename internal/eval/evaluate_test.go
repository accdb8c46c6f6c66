package eval

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// demoTokenizer is a small tokenizer learnt from the demo's own documents.
func demoTokenizer(t testing.TB) (*tokenizer.Tokenizer, []byte) {
	t.Helper()
	data, err := tokenizer.Train(func(yield func(string, error) bool) {
		for _, d := range demoSet(t, sciQ).Documents {
			if !yield(d.Context+strings.Join(d.Continuations, "\n"), nil) {
				return
			}
		}
	}, 400)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return tok, data
}

func demoSet(t testing.TB, task Task) Set {
	t.Helper()
	file, err := task.Find(demoData)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := task.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return Set{Task: task, File: file, Documents: docs, Original: len(docs)}
}

// hashScorer gives every token a log-likelihood by the tokens before it and
// counts how often it is asked. It fails before group failAt.
type hashScorer struct {
	engine.Scorer
	asked  map[string]int
	groups int
	failAt int
	fail   error
}

func (*hashScorer) BatchTokens() int { return 4096 }

func (h *hashScorer) Score(_ context.Context, reqs []engine.Request) ([]engine.Score, error) {
	if h.groups++; h.groups == h.failAt {
		return nil, h.fail
	}
	var out []engine.Score
	for _, r := range reqs {
		h.asked[requestKey("", r)]++
		out = append(out, hashScore(r))
	}
	return out, nil
}

func hashScore(r engine.Request) engine.Score {
	var s engine.Score
	for p := r.From; p < len(r.Tokens); p++ {
		h := fnv.New32a()
		fmt.Fprint(h, r.Tokens[:p+1])
		v := h.Sum32()
		s.LogLikelihood = append(s.LogLikelihood, -float32(v>>8)/(1<<22))
		s.Greedy = append(s.Greedy, v%3 > 0)
	}
	return s
}

func demoWork(t *testing.T, tok *tokenizer.Tokenizer) Work {
	w := Work{BatchTokens: 600, Files: []string{"text"}}
	for _, task := range []Task{arcEasy, lambadaOpenAI, piqa, sciQ} {
		w.Sets = append(w.Sets, demoSet(t, task))
	}
	w.Heldout = windows(tok.Encode(strings.Repeat("The caller must hold the lock. ", 40)), 64)
	return w
}

func demoModel(tok *tokenizer.Tokenizer, s engine.Scorer) Model {
	cfg := model.Plain(512, 32, 2, 2)
	cfg.MaxPositions = 64
	return Model{Name: "demo", Config: cfg, Scorer: s, Tokenizer: tok, Identity: "demo"}
}

// Stopped at any group and begun again, an evaluation gives the same figures
// and asks no request twice.
func TestResume(t *testing.T) {
	tok, _ := demoTokenizer(t)
	work := demoWork(t, tok)
	whole := &hashScorer{asked: map[string]int{}}
	want, err := evaluate(t.Context(), demoModel(tok, whole), work, memoryLog())
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stopped")
	for failAt := 1; failAt <= whole.groups; failAt += 29 {
		dir := t.TempDir()
		scorer := &hashScorer{asked: map[string]int{}, failAt: failAt, fail: stop}
		for attempt := range 2 {
			l, err := openLog(dir)
			if err != nil {
				t.Fatal(err)
			}
			got, err := evaluate(t.Context(), demoModel(tok, scorer), work, l)
			l.Close()
			if attempt == 0 {
				if !errors.Is(err, stop) {
					t.Fatalf("group %d: error %v, want %v", failAt, err, stop)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.scores(), want.scores()) || !reflect.DeepEqual(got.Heldout, want.Heldout) {
				t.Errorf("stopped at group %d: %v\nwant %v", failAt, got.scores(), want.scores())
			}
		}
		for key, n := range scorer.asked {
			if n != 1 {
				t.Errorf("stopped at group %d: request %s was asked %d times", failAt, key, n)
			}
		}
		if len(scorer.asked) != len(whole.asked) {
			t.Errorf("stopped at group %d: %d requests asked, want %d", failAt, len(scorer.asked), len(whole.asked))
		}
	}
}

// Figures worked out document by document, without the machinery of groups and
// logs.
func TestEvaluateAgainstPlainLoops(t *testing.T) {
	tok, _ := demoTokenizer(t)
	work := demoWork(t, tok)
	got, err := evaluate(t.Context(), demoModel(tok, &hashScorer{asked: map[string]int{}}), work, memoryLog())
	if err != nil {
		t.Fatal(err)
	}
	for i, set := range work.Sets {
		right, rightNorm := 0, 0
		for _, d := range set.Documents {
			best, bestNorm := 0, 0
			var sums, norms []float64
			greedy := true
			for _, c := range d.Continuations {
				context, all := tok.Encode(d.Context), tok.Encode(d.Context+c)
				tokens := append(slices.Clone(context), all[len(context):]...)
				from := len(context)
				if n := len(tokens) - 65; n > 0 { // the model reads 64 tokens
					tokens, from = tokens[n:], from-n
				}
				s := hashScore(engine.Request{Tokens: tokens, From: from})
				sum := 0.0
				for k, l := range s.LogLikelihood {
					sum += float64(l)
					greedy = greedy && s.Greedy[k]
				}
				sums, norms = append(sums, sum), append(norms, sum/float64(len([]rune(c))-1))
			}
			for k := range sums {
				if sums[k] > sums[best] {
					best = k
				}
				if norms[k] > norms[bestNorm] {
					bestNorm = k
				}
			}
			if set.Kind == LogLikelihood && greedy || set.Kind == MultipleChoice && best == d.Gold {
				right++
			}
			if set.Kind == MultipleChoice && bestNorm == d.Gold {
				rightNorm++
			}
		}
		n := float64(len(set.Documents))
		scores := got.scores()[set.Name]
		if want := float64(right) / n; scores["acc"].Value != want {
			t.Errorf("%s: acc %g, want %g", set.Name, scores["acc"].Value, want)
		}
		if want := float64(rightNorm) / n; set.Kind == MultipleChoice && scores["acc_norm"].Value != want {
			t.Errorf("%s: acc_norm %g, want %g", set.Name, scores["acc_norm"].Value, want)
		}
		if len(got.Tasks[i].Answers) != len(set.Documents) {
			t.Errorf("%s: %d answers", set.Name, len(got.Tasks[i].Answers))
		}
	}
}

func TestEvaluateRefuses(t *testing.T) {
	tok, _ := demoTokenizer(t)
	small := demoModel(tok, &hashScorer{asked: map[string]int{}})
	small.Config.VocabSize = 20
	if _, err := evaluate(t.Context(), small, demoWork(t, tok), memoryLog()); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), "vocabulary") {
		t.Errorf("a tokenizer of more tokens than the model has: %v", err)
	}
	short := demoModel(tok, &hashScorer{asked: map[string]int{}})
	short.Config.MaxPositions = 1
	if _, err := evaluate(t.Context(), short, demoWork(t, tok), memoryLog()); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), "document") {
		t.Errorf("a continuation longer than the context: %v", err)
	}
	if _, err := evaluate(t.Context(), demoModel(tok, nanScorer{}), demoWork(t, tok), memoryLog()); err == nil || !strings.Contains(err.Error(), "NaN") {
		t.Errorf("log-likelihoods that are not numbers: %v", err)
	}
}

type nanScorer struct{ engine.Scorer }

func (nanScorer) BatchTokens() int { return 4096 }

func (nanScorer) Score(_ context.Context, reqs []engine.Request) ([]engine.Score, error) {
	out := make([]engine.Score, len(reqs))
	zero := float32(0)
	for i, r := range reqs {
		for range len(r.Tokens) - r.From {
			out[i].LogLikelihood = append(out[i].LogLikelihood, zero/zero)
			out[i].Greedy = append(out[i].Greedy, false)
		}
	}
	return out, nil
}
