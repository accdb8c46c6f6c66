package eval

import (
	"context"
	"fmt"
	"math"

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
}

// evaluate scores what the log does not hold yet and makes figures of all.
func evaluate(ctx context.Context, m Model, w Work, log *requestLog) (Outcome, error) {
	jobs, err := m.jobs(w)
	if err != nil {
		return Outcome{}, err
	}
	if err := m.score(ctx, pending(jobs, log), w, log); err != nil {
		return Outcome{}, err
	}
	records := make([]record, len(jobs))
	for i, j := range jobs {
		records[i] = log.done[j.key]
	}
	return m.outcome(w, records)
}

// jobs lists every request, those of the tasks first.
func (m Model) jobs(w Work) ([]job, error) {
	encoder := infer.Encoder{Tokenizer: m.Tokenizer, Empty: m.Tokenizer.EOS(), Window: m.Config.MaxPositions}
	total := func(s engine.Score) []float64 { return []float64{s.Sum()} }
	var jobs []job
	for _, set := range w.Sets {
		for i, d := range set.Documents {
			for _, c := range d.Continuations {
				r, err := encoder.Request(d.Context, c)
				if err != nil {
					return nil, ui.Inputf("%s: document %d: %w", set.File, i, err)
				}
				if err := engine.CheckTokens(r.Tokens, m.Config.VocabSize); err != nil {
					return nil, ui.Inputf("model %s: its tokenizer belongs to another vocabulary: %s: document %d: %w", m.Name, set.File, i, err)
				}
				jobs = append(jobs, job{requestKey(m.Identity, r), r, total})
			}
		}
	}
	for i, seq := range w.Heldout {
		if err := engine.CheckTokens(seq, m.Config.VocabSize); err != nil {
			return nil, ui.Inputf("held-out text: sequence %d: %w; model %s cannot read it", i, err, m.Name)
		}
		jobs = append(jobs, job{requestKey(m.Identity+" by position", seq.request()), seq.request(), bucketSums})
	}
	return jobs, nil
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

// outcome makes figures of the records, which are in the order of jobs.
func (m Model) outcome(w Work, records []record) (Outcome, error) {
	var out Outcome
	for _, set := range w.Sets {
		t := TaskResult{Set: set, Scores: make([][]float64, len(set.Metrics))}
		for _, d := range set.Documents {
			answers := make([]Answer, len(d.Continuations))
			for k := range answers {
				answers[k] = Answer{records[k].Parts[0], records[k].Greedy}
			}
			records = records[len(answers):]
			t.Answers = append(t.Answers, answers)
			for i, metric := range set.Metrics {
				t.Scores[i] = append(t.Scores[i], metric.Score(d, answers))
			}
		}
		for i, metric := range set.Metrics {
			t.Estimates = append(t.Estimates, metric.Aggregate(t.Scores[i]))
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
