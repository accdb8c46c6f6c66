package eval

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/ui"
)

// Drawn by CPython 3.11: random.Random(1234), one sample after another.
func TestSampleIsPythons(t *testing.T) {
	r := newPyRandom(1234)
	for _, c := range []struct {
		n, k int
		want []int // the first of them
	}{
		{10, 3, []int{7, 1, 0}},
		{1000, 5, []int{92, 932, 965, 961, 826}},
		{30, 6, []int{18, 1, 21, 22, 2, 3}},
		{2251, 1, []int{1452}},
		{100, 20, []int{30, 2, 3, 44, 82, 79, 61, 78}},
		{21, 21, []int{17, 14, 2, 18, 16, 1, 4, 13}},
		{3000, 40, []int{23, 1366, 588, 2908, 1936, 2692, 1545, 684}},
	} {
		got := r.sample(c.n, c.k)
		if len(got) != c.k || !slices.Equal(got[:len(c.want)], c.want) {
			t.Errorf("%d of %d: %v, want %v", c.k, c.n, got, c.want)
		}
	}
}

// sciqRows are n different documents of SciQ.
func sciqRows(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, strings.Replace(strings.TrimSpace(goodSciQ), "q?", fmt.Sprintf("q%d?", i), 1))
	}
	return b.String()
}

func TestShots(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"sciq/test.jsonl": sciqRows(3), "sciq/train.jsonl": sciqRows(10), "sciq/valid.jsonl": sciqRows(2),
		"lambada_test.jsonl": `{"text": "one two"}` + "\n" + `{"text": "a b c"}` + "\n",
		"piqa/valid.jsonl":   goodPIQA, "piqa/valid-labels.lst": "1\n",
		"piqa/train.jsonl": goodPIQA + strings.Replace(goodPIQA, `"g"`, `"h"`, 1), "piqa/train-labels.lst": "1\n0\n",
	})
	contexts := func(task string, s Shots) ([]string, error) {
		o := Options{Tasks: []string{task}, Data: dir, Shots: s}
		sets, err := o.sets()
		if err != nil {
			return nil, err
		}
		var out []string
		for _, d := range sets[0].Documents {
			out = append(out, d.Context)
		}
		return out, nil
	}
	got, err := contexts("sciq", Shots{Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	// The first draw is TestSampleIsPythons'.
	want := "s\nQuestion: q7?\nAnswer: d\n\ns\nQuestion: q1?\nAnswer: d\n\ns\nQuestion: q0?\nAnswer: d\n\ns\nQuestion: q0?\nAnswer:"
	if got[0] != want {
		t.Errorf("sciq: %q\nwant %q", got[0], want)
	}
	if got[1] == got[0] {
		t.Error("two documents have the same examples: the generator begins anew")
	}
	// The target of LAMBADA begins with a space of its own.
	if got, err = contexts("lambada_openai", Shots{Count: 2}); err != nil || !strings.Contains(got[0], "one  two\n\n") || !strings.Contains(got[0], "a b  c\n\n") {
		t.Errorf("lambada_openai: %q, %v", got, err)
	}
	// A document is not its own example where the harness sees to that.
	if got, err = contexts("piqa", Shots{Count: 1}); err != nil || got[0] != "Question: h\nAnswer: a\n\nQuestion: g\nAnswer:" {
		t.Errorf("piqa: %q, %v", got, err)
	}
	for name, c := range map[string]struct {
		task string
		s    Shots
		code int
		want string
	}{
		"too few":       {"sciq", Shots{3, "validation"}, ui.ExitInput, "at least 3"},
		"unknown split": {"sciq", Shots{1, "dev"}, ui.ExitUsage, "train or validation"},
		"no such file":  {"boolq", Shots{Count: 1}, ui.ExitInput, "boolq"},
		"negative":      {"sciq", Shots{Count: -1}, ui.ExitUsage, "shots"},
	} {
		if _, err := contexts(c.task, c.s); ui.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: exit code %d, %v", name, ui.ExitCode(err), err)
		}
	}
}
