// Package eval scores a model on tasks as lm-evaluation-harness 0.4 does: the
// same documents, requests, metrics and result file. It adds the loss on
// held-out text.
package eval

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"mlkv/internal/engine"
	"mlkv/internal/infer"
	"mlkv/internal/ui"
)

// Kind is how a task's documents are scored.
type Kind string

// The harness's names of the kinds.
const (
	MultipleChoice Kind = "multiple_choice"
	LogLikelihood  Kind = "loglikelihood"
	Rolling        Kind = "loglikelihood_rolling" // of a whole text, in windows
)

// Document is one item of a task.
type Document struct {
	// Fields are what the harness's data set holds of it.
	Fields Object
	// Context is the prompt; each of Continuations is scored after it.
	Context       string
	Continuations []string
	// Choices are the continuations without the space before them.
	Choices []string
	// Gold is the index of the right choice.
	Gold int
	// Target is what the harness logs as the answer, and all that is scored of
	// a rolling task.
	Target string
	// Text is a rolling task's document before it was made ready, whose words and
	// bytes count.
	Text string
}

// Answer is what a model says of one continuation.
type Answer struct {
	LogLikelihood float64 // summed over its tokens
	Greedy        bool    // every token was the most likely one
}

// Task is a set of documents and how they are scored.
type Task struct {
	Name    string
	Version float64
	Kind    Kind
	Metrics []Metric
	// Files are the places of the documents below the data folder, in the
	// order in which they are tried.
	Files []string
	// Read returns the documents of a file.
	Read func(file string) ([]Document, error)
	// Config is the harness's configuration of the task.
	Config Object
	// Shots are the splits that examples before a prompt may come from, the
	// harness's choice first.
	Shots []Split
}

// Metric is one figure of a task.
type Metric struct {
	Name           string
	HigherIsBetter bool
	// Score rates a document by the model's answers to its continuations.
	Score func(d Document, answers []Answer) float64
	// Aggregate makes one figure of all documents' scores.
	Aggregate func(scores []float64) Estimate
	// Weigh, where set, gives each document a weight; Ratio then makes the
	// figure, in place of Aggregate, of the sums of scores and weights.
	Weigh func(d Document) float64
	Ratio func(scores, weights float64) float64
}

// aggregate makes one figure of all documents' scores.
func (m Metric) aggregate(scores []float64, docs []Document) Estimate {
	if m.Weigh == nil {
		return m.Aggregate(scores)
	}
	sum, weight := 0.0, 0.0
	for i, d := range docs {
		sum, weight = sum+scores[i], weight+m.Weigh(d)
	}
	return Estimate{m.Ratio(sum, weight), math.NaN()} // the harness gives no error
}

// requests are what a model is asked about a document.
func (t Task) requests(e infer.Encoder, d Document) ([]engine.Request, error) {
	if t.Kind == Rolling {
		return e.Rolling(d.Target), nil
	}
	out := make([]engine.Request, len(d.Continuations))
	for i, c := range d.Continuations {
		var err error
		if out[i], err = e.Request(d.Context, c); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// answers are what the records of a document's requests say.
func (t Task) answers(records []record) []Answer {
	if t.Kind == Rolling {
		sum := 0.0
		for _, r := range records {
			sum += r.Parts[0]
		}
		return []Answer{{LogLikelihood: sum}}
	}
	out := make([]Answer, len(records))
	for i, r := range records {
		out[i] = Answer{r.Parts[0], r.Greedy}
	}
	return out
}

var (
	accuracy           = Metric{Name: "acc", HigherIsBetter: true, Score: scoreAccuracy, Aggregate: mean}
	normalizedAccuracy = Metric{Name: "acc_norm", HigherIsBetter: true, Score: scoreNormalized, Aggregate: mean}
	greedyAccuracy     = Metric{Name: "acc", HigherIsBetter: true, Score: scoreGreedy, Aggregate: mean}
	targetPerplexity   = Metric{Name: "perplexity", Score: scoreLogLikelihood, Aggregate: perplexity}
)

// Tasks are all tasks of documents, by name.
var Tasks = []Task{arcEasy, boolQ, lambadaOpenAI, piqa, sciQ, wikitext}

// HeldoutTask is the name of the task that has no documents but text.
const HeldoutTask = "heldout"

// TaskNames lists every task.
func TaskNames() []string {
	var out []string
	for _, t := range Tasks {
		out = append(out, t.Name)
	}
	return append(out, TextTask, HeldoutTask)
}

// LookupTask finds a task of documents by its name.
func LookupTask(name string) (Task, error) {
	if i := slices.IndexFunc(Tasks, func(t Task) bool { return t.Name == name }); i >= 0 {
		return Tasks[i], nil
	}
	return Task{}, ui.Usagef("unknown task %q%s; known tasks are %s", name, ui.DidYouMean(name, TaskNames()), strings.Join(TaskNames(), ", "))
}

// Find returns the file of the task's documents in a data folder.
func (t Task) Find(dir string) (string, error) { return t.find(dir, t.Files, "") }

// find returns the first of the files that is there; what names them.
func (t Task) find(dir string, files []string, what string) (string, error) {
	if what != "" {
		what = " of the " + what
	}
	if dir == "" {
		return "", ui.Usagef("task %s: no folder of task files; pass --data or set eval.data", t.Name)
	}
	for _, name := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", ui.Inputf("task %s: expected one of %s%s in %s, found none", t.Name, strings.Join(files, ", "), what, dir)
}

// choose completes a document of several choices, each of which follows the
// context after a space.
func (d Document) choose(choices []string, gold int) Document {
	d.Choices, d.Gold = choices, gold
	for _, c := range choices {
		d.Continuations = append(d.Continuations, " "+c)
	}
	return d
}

func scoreAccuracy(d Document, answers []Answer) float64 {
	return truth(first(logLikelihoods(answers)) == d.Gold)
}

// scoreNormalized divides by the choices' lengths in code points.
func scoreNormalized(d Document, answers []Answer) float64 {
	lls := logLikelihoods(answers)
	for i := range lls {
		lls[i] /= float64(utf8.RuneCountInString(d.Choices[i]))
	}
	return truth(first(lls) == d.Gold)
}

func scoreGreedy(_ Document, answers []Answer) float64 { return truth(answers[0].Greedy) }

func scoreLogLikelihood(_ Document, answers []Answer) float64 { return answers[0].LogLikelihood }

func logLikelihoods(answers []Answer) []float64 {
	out := make([]float64, len(answers))
	for i, a := range answers {
		out[i] = a.LogLikelihood
	}
	return out
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
