package eval

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/ui"
)

// demoData is the folder of this project's own task files.
const demoData = "../../configs/demo/eval"

// writeFiles puts files into a fresh folder.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	goodARC     = `{"id": "1", "question": {"stem": "S?", "choices": [{"text": "é", "label": "1"}, {"text": "two", "label": "2"}]}, "answerKey": "2"}` + "\n"
	goodPIQA    = `{"goal": "g", "sol1": "a", "sol2": "b"}` + "\n"
	goodSciQ    = `{"question": "q?", "distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d", "support": "  s"}` + "\n"
	goodBoolQ   = `{"question": "is it", "passage": "p", "idx": 7, "label": 1}` + "\n"
	goodLAMBADA = `{"text": "one two\nthree"}` + "\n"
)

func TestPrompts(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"ARC-Easy-Test.jsonl": goodARC, "piqa.jsonl": goodPIQA, "piqa-labels.lst": "1\n",
		"sciq/test.jsonl": goodSciQ, "boolq/val.jsonl": goodBoolQ, "lambada_test.jsonl": goodLAMBADA,
	})
	for name, want := range map[string]Document{
		"arc_easy":       {Context: "Question: S?\nAnswer:", Continuations: []string{" é", " two"}, Gold: 1, Target: "1"},
		"piqa":           {Context: "Question: g\nAnswer:", Continuations: []string{" a", " b"}, Gold: 1, Target: "1"},
		"sciq":           {Context: "s\nQuestion: q?\nAnswer:", Continuations: []string{" a", " b", " c", " d"}, Gold: 3, Target: "3"},
		"boolq":          {Context: "p\nQuestion: is it?\nAnswer:", Continuations: []string{" no", " yes"}, Gold: 1, Target: "1"},
		"lambada_openai": {Context: "one", Continuations: []string{" two\nthree"}, Target: " two\nthree"},
	} {
		task, err := LookupTask(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := task.Find(dir)
		if err != nil {
			t.Fatal(err)
		}
		docs, err := task.Read(file)
		if err != nil || len(docs) != 1 {
			t.Fatalf("%s: %d documents, error %v", name, len(docs), err)
		}
		got := docs[0]
		if got.Context != want.Context || strings.Join(got.Continuations, "|") != strings.Join(want.Continuations, "|") ||
			got.Gold != want.Gold || got.Target != want.Target {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// Every fault of a task file ends with exit code 3 and a message that names
// file, line and field.
func TestMalformedTaskFiles(t *testing.T) {
	for _, c := range []struct {
		task, text, labels string
		want               []string
	}{
		{"arc_easy", "", "", []string{"ARC-Easy-Test.jsonl", "empty"}},
		{"arc_easy", goodARC + "nonsense\n", "", []string{"ARC-Easy-Test.jsonl:2", "JSON object", "nonsense"}},
		{"arc_easy", goodARC + goodARC[:40] + "\n", "", []string{":2", "JSON"}},
		{"arc_easy", goodARC + "{\"id\": \"\xff\"}\n", "", []string{":2", "UTF-8"}},
		{"arc_easy", strings.Replace(goodARC, `"answerKey": "2"`, `"answerKey": "D"`, 1), "", []string{":1", `"answerKey"`, "1, 2", "D"}},
		{"arc_easy", strings.Replace(goodARC, `"stem": "S?"`, `"stem": 3`, 1), "", []string{":1", `"question.stem"`, "string", "3"}},
		{"arc_easy", strings.Replace(goodARC, `"label": "1"`, `"tag": "1"`, 1), "", []string{":1", `"question.choices.label"`, "no such field"}},
		{"arc_easy", `{"id": "1", "question": null, "answerKey": "A"}`, "", []string{":1", `"question"`, "object", "null"}},
		{"arc_easy", `{"id": "1", "question": {"stem": "s", "choices": {}}, "answerKey": "A"}`, "", []string{`"question.choices"`, "list"}},
		{"piqa", goodPIQA, "0\n1\n", []string{"valid-labels.lst", "1", "2"}},
		{"piqa", goodPIQA + goodPIQA, "0\n", []string{"valid.jsonl:2", "labels"}},
		{"piqa", goodPIQA, "2\n", []string{"valid-labels.lst:1", "0 or 1", "2"}},
		{"piqa", goodPIQA, "", []string{"valid-labels.lst:1", "0 or 1"}},
		{"piqa", `{"goal": "g", "sol1": "a"}`, "0\n", []string{":1", `"sol2"`, "no such field"}},
		{"sciq", `{"question": "q"}`, "", []string{":1", `"support"`}},
		{"sciq", goodSciQ + "[]", "", []string{":2", "object"}},
		{"boolq", strings.Replace(goodBoolQ, `"label": 1`, `"label": 2`, 1), "", []string{":1", `"label"`, "2"}},
		{"boolq", strings.Replace(goodBoolQ, `"label": 1`, `"x": 1`, 1), "", []string{":1", `"label"`, "no such field"}},
		{"boolq", strings.Replace(goodBoolQ, `7`, `"7"`, 1), "", []string{":1", `"idx"`}},
		{"lambada_openai", `{"text": "ends with a space "}`, "", []string{":1", `"text"`, "last word"}},
		{"lambada_openai", `{"text": ""}`, "", []string{":1", `"text"`, "empty"}},
	} {
		task, err := LookupTask(c.task)
		if err != nil {
			t.Fatal(err)
		}
		dir := writeFiles(t, map[string]string{task.Files[0]: c.text, "piqa/valid-labels.lst": c.labels})
		_, err = task.Read(filepath.Join(dir, task.Files[0]))
		if ui.ExitCode(err) != ui.ExitInput {
			t.Errorf("%s with %.60q: exit code %d (%v), want %d", c.task, c.text, ui.ExitCode(err), err, ui.ExitInput)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s with %.60q: message %q does not hold %q", c.task, c.text, err, w)
			}
		}
	}
}

func TestFindErrors(t *testing.T) {
	if _, err := sciQ.Find(t.TempDir()); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), "sciq/test.jsonl") {
		t.Errorf("empty folder: %v", err)
	}
	if _, err := sciQ.Find(""); ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("no folder: %v", err)
	}
	if _, err := LookupTask("sciqq"); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "did you mean sciq?") {
		t.Errorf("unknown task: %v", err)
	}
	if _, err := piqa.Read(filepath.Join(writeFiles(t, map[string]string{"valid.jsonl": goodPIQA}), "valid.jsonl")); ui.ExitCode(err) != ui.ExitInput {
		t.Errorf("no labels: %v", err)
	}
}

// The project's own task files are sound, and their requests do not change
// unnoticed.
func TestDemoRequestsArePinned(t *testing.T) {
	for name, want := range map[string]string{
		"arc_easy":       "b32823bb4cae84822b09f10e047dbb9a45b8cb3e00fc5bd8d5707fcf6057bc48",
		"lambada_openai": "f4a01a0db2ebed57b548b396f320417b7075abff035330db8afac4abaf940d96",
		"piqa":           "10cc2f8622c5a4310845426dbd655dd9f2569fbdf7ac4eb5253b35ef07906a4b",
		"sciq":           "944d3ae91cc1d992e3c5893977ad1a53246d9a5e5483255a8ce3837b50abf830",
	} {
		task, err := LookupTask(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := task.Find(demoData)
		if err != nil {
			t.Fatal(err)
		}
		docs, err := task.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		var requests [][2]string
		for _, d := range docs {
			requests = append(requests, plain3(d)...)
		}
		if got := requestHash(t, requests); got != want {
			t.Errorf("%s: requests hash to %s, want %s", name, got, want)
		}
	}
}

func TestScores(t *testing.T) {
	lls := func(x ...float64) []Answer { return inOrder(x) }
	for _, c := range []struct {
		name      string
		choices   []string
		gold      int
		answers   []Answer
		acc, norm float64
	}{
		{"longest choice wins by normalization", []string{"a", "bbbb"}, 1, lls(-1, -2), 0, 1},
		{"lengths are code points, not bytes", []string{"世界", "bbb"}, 0, lls(-2.1, -3), 1, 0},
		{"of equal scores the first counts", []string{"aa", "bb"}, 1, lls(-2, -2), 0, 0},
		{"of equal scores the first counts, and is right", []string{"aa", "bb"}, 0, lls(-2, -2), 1, 1},
		{"an empty choice has no rate", []string{"", "b"}, 1, lls(-1, -2), 0, 1},
	} {
		d := Document{}.choose(c.choices, c.gold)
		if got := scoreAccuracy(d, c.answers); got != c.acc {
			t.Errorf("%s: acc %g, want %g", c.name, got, c.acc)
		}
		if got := scoreNormalized(d, c.answers); got != c.norm {
			t.Errorf("%s: acc_norm %g, want %g", c.name, got, c.norm)
		}
	}
}

// The figures of few numbers, worked out by hand.
func TestEstimates(t *testing.T) {
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-12 && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("%s: %.15g, want %.15g", name, got, want)
		}
	}
	m := mean([]float64{1, 0, 0, 1, 1})
	near("mean", m.Value, 0.6)
	near("standard error of the mean", m.StdErr, math.Sqrt(1.2/4)/math.Sqrt(5))
	near("standard error of one document", mean([]float64{1}).StdErr, math.NaN())
	near("perplexity", perplexity([]float64{-1}).Value, math.E)
	near("standard error of one perplexity", perplexity([]float64{-1}).StdErr, math.NaN())

	// Equal weights make the ratio a mean.
	r, plain := ratio([]float64{2, 4, 9}, []float64{1, 1, 1}), mean([]float64{2, 4, 9})
	near("ratio", r.Value, plain.Value)
	near("standard error of a ratio", r.StdErr, plain.StdErr)
	near("ratio by weight", ratio([]float64{2, 12}, []float64{1, 3}).Value, 3.5)
}

// The bootstrap agrees with the delta method where that holds: many values,
// small spread.
func TestBootstrapAgreesWithDeltaMethod(t *testing.T) {
	r := newPyRandom(3)
	lls := make([]float64, 400)
	for i := range lls {
		lls[i] = -2 - r.float64()
	}
	m := mean(lls)
	got, want := bootstrap(lls, 20_000), math.Exp(-m.Value)*m.StdErr
	if d := math.Abs(got/want - 1); d > 0.03 {
		t.Errorf("bootstrap %g, delta method %g: %.1f %% apart", got, want, 100*d)
	}
}

func FuzzTaskFiles(f *testing.F) {
	for i, text := range []string{goodARC, goodBoolQ, goodLAMBADA, goodPIQA, goodSciQ} {
		f.Add(i, []byte(text), []byte("1\n"))
	}
	f.Add(0, []byte(`{"question": {"choices": [null, {}]}}`), []byte{})
	f.Fuzz(func(t *testing.T, which int, text, labels []byte) {
		task := Tasks[uint(which)%uint(len(Tasks))]
		dir := writeFiles(t, map[string]string{"valid.jsonl": string(text), "valid-labels.lst": string(labels)})
		docs, err := task.Read(filepath.Join(dir, "valid.jsonl"))
		if err != nil {
			if ui.ExitCode(err) != ui.ExitInput {
				t.Fatalf("exit code %d: %v", ui.ExitCode(err), err)
			}
			return
		}
		for _, d := range docs {
			if len(d.Continuations) == 0 || d.Gold < 0 || task.Kind == MultipleChoice && d.Gold >= len(d.Choices) {
				t.Fatalf("document %+v", d)
			}
		}
	})
}
