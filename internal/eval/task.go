// Package eval scores a model on tasks as lm-evaluation-harness 0.4 does: the
// same documents, requests, metrics and result file. It adds the loss on
// held-out text.
package eval

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"mlkv/internal/ui"
)

// Kind is how a task's documents are scored.
type Kind string

// The harness's names of the kinds.
const (
	MultipleChoice Kind = "multiple_choice"
	LogLikelihood  Kind = "loglikelihood"
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
	// Target is what the harness logs as the answer.
	Target string
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
}

// Metric is one figure of a task.
type Metric struct {
	Name           string
	HigherIsBetter bool
	// Score rates a document by the model's answers to its continuations.
	Score func(d Document, answers []Answer) float64
	// Aggregate makes one figure of all documents' scores.
	Aggregate func(scores []float64) Estimate
}

var (
	accuracy           = Metric{"acc", true, scoreAccuracy, mean}
	normalizedAccuracy = Metric{"acc_norm", true, scoreNormalized, mean}
	greedyAccuracy     = Metric{"acc", true, scoreGreedy, mean}
	wordPerplexity     = Metric{"perplexity", false, scoreLogLikelihood, perplexity}
)

// Tasks are all tasks of documents, by name.
var Tasks = []Task{arcEasy, boolQ, lambadaOpenAI, piqa, sciQ}

// HeldoutTask is the name of the task that has no documents but text.
const HeldoutTask = "heldout"

// TaskNames lists every task.
func TaskNames() []string {
	var out []string
	for _, t := range Tasks {
		out = append(out, t.Name)
	}
	return append(out, HeldoutTask)
}

// LookupTask finds a task of documents by its name.
func LookupTask(name string) (Task, error) {
	if i := slices.IndexFunc(Tasks, func(t Task) bool { return t.Name == name }); i >= 0 {
		return Tasks[i], nil
	}
	return Task{}, ui.Usagef("unknown task %q%s; known tasks are %s", name, ui.DidYouMean(name, TaskNames()), strings.Join(TaskNames(), ", "))
}

// Find returns the file of the task's documents in a data folder.
func (t Task) Find(dir string) (string, error) {
	if dir == "" {
		return "", ui.Usagef("task %s: no folder of task files; pass --data or set eval.data", t.Name)
	}
	for _, name := range t.Files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", ui.Inputf("task %s: expected one of %s in %s, found none", t.Name, strings.Join(t.Files, ", "), dir)
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
