package eval

import (
	"reflect"
	"strings"

	"mlkv/internal/ui"
)

// Split is a part of a task's data set.
type Split struct {
	Name  string   // the harness's
	Files []string // below the data folder, in the order in which they are tried
}

// shotSeed is the harness's --seed for few-shot examples.
const shotSeed = 1234

// Shots says which examples stand before every prompt.
type Shots struct {
	Count int
	// Split that they come from; empty: what the harness takes where its task
	// files do not say.
	Split string
}

// prepend puts examples before the context of every document, as the harness
// does (api/task.py, fewshot_context; api/samplers.py, ContextSampler): drawn by
// Python's random.Random(1234), one draw a document in their order.
func (s Shots) prepend(t Task, dir string, docs []Document) error {
	if s.Count == 0 {
		return nil
	}
	if t.Kind == Rolling {
		return ui.Usagef("task %s: examples have no place before a whole text; leave --shots out or the task", t.Name)
	}
	split, err := s.split(t)
	if err != nil {
		return err
	}
	file, err := t.find(dir, split.Files, split.Name+" split")
	if err != nil {
		return err
	}
	pool, err := t.Read(file)
	if err != nil {
		return err
	}
	// The harness keeps a document from being its own example only where the
	// names of the two splits agree, and both are unset here.
	apart := s.Split == "" && !t.hasTestSplit()
	need := s.Count
	if apart {
		need++
	}
	if need > len(pool) {
		return ui.Inputf("%s: expected at least %d documents to draw %d examples from, found %d", file, need, s.Count, len(pool))
	}
	random := newPyRandom(shotSeed)
	for i := range docs {
		var text strings.Builder
		for _, k := range drawShots(random, pool, docs[i], s.Count, apart) {
			text.WriteString(pool[k].Context + " " + pool[k].answer() + "\n\n")
		}
		docs[i].Context = text.String() + docs[i].Context
	}
	return nil
}

func (s Shots) split(t Task) (Split, error) {
	if s.Split == "" {
		return t.Shots[0], nil
	}
	var names []string
	for _, split := range t.Shots {
		if split.Name == s.Split {
			return split, nil
		}
		names = append(names, split.Name)
	}
	return Split{}, ui.Usagef("task %s: expected examples from %s, found %q", t.Name, strings.Join(names, " or "), s.Split)
}

// hasTestSplit reports whether the harness evaluates on a split named test.
func (t Task) hasTestSplit() bool {
	for _, f := range t.Config {
		if f.Name == "test_split" {
			return true
		}
	}
	return false
}

// drawShots draws the indices of n examples. With apart, one more is drawn and
// those equal to the document are left out.
func drawShots(r *pyRandom, pool []Document, d Document, n int, apart bool) []int {
	if !apart {
		return r.sample(len(pool), n)
	}
	others := func(list []int) []int {
		var out []int
		for _, k := range list {
			if !reflect.DeepEqual(pool[k].Fields, d.Fields) {
				out = append(out, k)
			}
		}
		return out
	}
	drawn := others(r.sample(len(pool), n+1))
	if len(drawn) >= n {
		return drawn[:n]
	}
	all := make([]int, len(pool))
	for k := range all {
		all[k] = k
	}
	rest := others(all)
	drawn = drawn[:0]
	for _, k := range r.sample(len(rest), n) {
		drawn = append(drawn, rest[k])
	}
	return drawn
}

// answer is the right answer as an example shows it.
func (d Document) answer() string {
	if len(d.Choices) > 0 {
		return d.Choices[d.Gold]
	}
	return d.Target
}
