package eval

import (
	"context"
	"fmt"
	"math"
	"runtime"

	"golang.org/x/sync/errgroup"

	"mlkv/internal/engine"
	"mlkv/internal/infer"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// Tokenizer is what an evaluation asks of one.
type Tokenizer interface {
	Encode(text string) []int32
	// Token is the text of a token, which may be part of a character.
	Token(id int32) string
	EOS() int32
}

// Model is a checkpoint that can be scored.
type Model struct {
	Name      string
	Config    model.Config
	Scorer    engine.Scorer
	Tokenizer Tokenizer
	// Identity names the weights and the device, so that finished requests
	// are only taken over where they would come out the same.
	Identity string
}

// Set is a task with the documents that are scored.
type Set struct {
	Task
	File      string
	Documents []Document
	Original  int // documents in the file
	Shots     Shots
}

// Work is what a model is asked: tasks and held-out text.
type Work struct {
	Sets     []Set
	Heldout  []sequence
	Files    []string // of held-out text
	Progress func(total int64) *ui.Progress
	// BatchTokens bounds the tokens of a group of requests; 0: what suits the
	// device.
	BatchTokens int
}

// TaskResult is what came out of one task.
type TaskResult struct {
	Set
	Answers   [][]Answer  // by document and continuation
	Scores    [][]float64 // by metric and document
	Estimates []Estimate  // by metric
}

// Outcome is all that came out for one model.
type Outcome struct {
	Tasks   []TaskResult
	Heldout *Heldout // nil where there was no held-out text
}

// job is a request and what is kept of its answer.
type job struct {
	key     string
	request engine.Request
	keep    func(engine.Score) []float64
	kept    string // names what keep keeps
}

// questions are a model's requests: those of the tasks, then those of held-out
// text.
type questions struct {
	jobs   []job
	counts [][]int // how many of them each set's documents have
}

// ask turns the work into requests to a model, on all processors.
func (w Work) ask(tok Tokenizer, cfg model.Config, name string) (questions, error) {
	var q questions
	encoder := infer.Encoder{Tokenizer: tok, Empty: tok.EOS(), Window: cfg.MaxPositions}
	total := func(s engine.Score) []float64 { return []float64{s.Sum()} }
	for _, set := range w.Sets {
		requests, errs := make([][]engine.Request, len(set.Documents)), make([]error, len(set.Documents))
		each(len(set.Documents), func(i int) { requests[i], errs[i] = set.requests(encoder, set.Documents[i]) })
		counts := make([]int, len(set.Documents))
		for i, list := range requests {
			if errs[i] != nil {
				return q, ui.Inputf("%s: document %d: %w", set.File, i, errs[i])
			}
			for _, r := range list {
				if err := engine.CheckTokens(r.Tokens, cfg.VocabSize); err != nil {
					return q, ui.Inputf("model %s: its tokenizer belongs to another vocabulary: %s: document %d: %w", name, set.File, i, err)
				}
				q.jobs = append(q.jobs, job{request: r, keep: total})
			}
			counts[i] = len(list)
		}
		q.counts = append(q.counts, counts)
	}
	for i, seq := range w.Heldout {
		if err := engine.CheckTokens(seq, cfg.VocabSize); err != nil {
			return q, ui.Inputf("held-out text: sequence %d: %w; model %s cannot read it", i, err, name)
		}
		q.jobs = append(q.jobs, job{request: seq.request(), keep: bucketSums, kept: " by position"})
	}
	return q, nil
}

// each calls f(0) ... f(n-1) on all processors.
func each(n int, f func(i int)) {
	var g errgroup.Group
	parts := 4 * runtime.GOMAXPROCS(0)
	for p := range parts {
		g.Go(func() error {
			for i := p * n / parts; i < (p+1)*n/parts; i++ {
				f(i)
			}
			return nil
		})
	}
	_ = g.Wait() // f has no error
}

// evaluate scores what the log does not hold yet and makes figures of all.
func evaluate(ctx context.Context, m Model, w Work, log *requestLog) (Outcome, error) {
	q, err := w.ask(m.Tokenizer, m.Config, m.Name)
	if err != nil {
		return Outcome{}, err
	}
	records, err := m.answer(ctx, q, w, log)
	if err != nil {
		return Outcome{}, err
	}
	return m.outcome(w, q.counts, records)
}

// answer returns the model's answers to every request, in their order.
func (m Model) answer(ctx context.Context, q questions, w Work, log *requestLog) ([]record, error) {
	each(len(q.jobs), func(i int) { q.jobs[i].key = requestKey(m.Identity+q.jobs[i].kept, q.jobs[i].request) })
	if err := m.score(ctx, pending(q.jobs, log), w, log); err != nil {
		return nil, err
	}
	records := make([]record, len(q.jobs))
	for i, j := range q.jobs {
		records[i] = log.done[j.key]
	}
	return records, nil
}

// pending are the jobs that the log has no answer to, each once.
func pending(jobs []job, log *requestLog) []job {
	var out []job
	seen := map[string]bool{}
	for _, j := range jobs {
		if _, done := log.done[j.key]; done || seen[j.key] {
			continue
		}
		seen[j.key] = true
		out = append(out, j)
	}
	return out
}

func (m Model) score(ctx context.Context, jobs []job, w Work, log *requestLog) error {
	requests := make([]engine.Request, len(jobs))
	tokens := int64(0)
	for i, j := range jobs {
		requests[i] = j.request
		tokens += int64(len(j.request.Tokens))
	}
	var progress *ui.Progress
	if w.Progress != nil && len(jobs) > 0 {
		progress = w.Progress(tokens)
		defer progress.Done()
	}
	return infer.Score(ctx, m.Scorer, requests, infer.ScoreOptions{
		BatchTokens: w.BatchTokens,
		Done: func(i int, s engine.Score) error {
			parts := jobs[i].keep(s)
			for _, p := range parts {
				if math.IsNaN(p) || math.IsInf(p, 0) {
					return fmt.Errorf("model %s: a log-likelihood is %g: its weights are damaged or overflow", m.Name, p)
				}
			}
			progress.Add(int64(len(requests[i].Tokens)))
			return log.add(jobs[i].key, record{parts, s.AllGreedy()})
		},
	})
}

// outcome makes figures of the records, which are in the order of requests;
// counts are those of questions.
func (m Model) outcome(w Work, counts [][]int, records []record) (Outcome, error) {
	var out Outcome
	for s, set := range w.Sets {
		t := TaskResult{Set: set, Scores: make([][]float64, len(set.Metrics))}
		for k, d := range set.Documents {
			answers := set.answers(records[:counts[s][k]])
			records = records[counts[s][k]:]
			t.Answers = append(t.Answers, answers)
			for i, metric := range set.Metrics {
				t.Scores[i] = append(t.Scores[i], metric.Score(d, answers))
			}
		}
		for i, metric := range set.Metrics {
			t.Estimates = append(t.Estimates, metric.aggregate(t.Scores[i], set.Documents))
		}
		out.Tasks = append(out.Tasks, t)
	}
	if len(w.Heldout) == 0 {
		return out, nil
	}
	sums := make([][]float64, len(records))
	for i, r := range records {
		sums[i] = r.Parts
	}
	eos := m.Tokenizer.EOS()
	h, err := summarize(w.Heldout, sums, func(id int32) int {
		if id == eos {
			return 0
		}
		return len(m.Tokenizer.Token(id))
	})
	h.Files = w.Files
	out.Heldout = &h
	return out, err
}
