package eval

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// fixedOutcome is an outcome of all five tasks with few documents each.
func fixedOutcome(t *testing.T) Outcome {
	t.Helper()
	dir := writeFiles(t, map[string]string{
		"arc_easy.jsonl": goodARC + goodARC, "piqa.jsonl": goodPIQA + goodPIQA, "piqa-labels.lst": "1\n0\n",
		"sciq.jsonl": goodSciQ + goodSciQ, "boolq.jsonl": goodBoolQ + goodBoolQ, "lambada_openai.jsonl": goodLAMBADA + goodLAMBADA,
	})
	tok, _ := demoTokenizer(t)
	var w Work
	for _, task := range Tasks {
		if task.Kind == Rolling { // the authors have none
			continue
		}
		file, err := task.Find(dir)
		if err != nil {
			t.Fatal(err)
		}
		docs, err := task.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		w.Sets = append(w.Sets, Set{Task: task, File: file, Documents: docs, Original: 9})
	}
	w.Heldout, w.Files = windows(tok.Encode("The caller must hold the lock. The caller must hold it."), 8), []string{"val.txt"}
	out, err := evaluate(t.Context(), demoModel(tok, &hashScorer{asked: map[string]int{}}), w, memoryLog())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func fixedResult(t *testing.T, o Outcome) Object {
	t.Helper()
	tok, _ := demoTokenizer(t)
	return result(o, Circumstances{
		Model: demoModel(tok, nil), Dir: "models/demo", Device: "cpu", BatchTokens: 4096, Limit: 2,
		Commit: "abc", Started: time.Unix(1700000000, 5e8), Elapsed: time.Second, Provenance: map[string]int{"x": 1},
	})
}

// keys lists the paths of an object's fields, with the kind of each value.
func keys(v any, path string, out map[string]string) map[string]string {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			keys(x, path+"/"+k, out)
		}
		return out
	case []any:
		for i, x := range v {
			keys(x, fmt.Sprintf("%s/%d", path, i), out)
		}
		return out
	}
	out[path] = fmt.Sprintf("%T", v)
	return out
}

// The authors' result files, written by the harness 0.4, have no field that
// ours lack, and every field of ours is of the same kind; what describes the
// tasks is equal.
func TestResultHasTheHarnessSchema(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(sharedData(t, "published", "authors"), "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	text, err := pyJSON{Indent: 2}.dump(fixedResult(t, fixedOutcome(t)))
	if err != nil {
		t.Fatal(err)
	}
	var ours map[string]any
	if err := json.Unmarshal(text, &ours); err != nil {
		t.Fatal(err)
	}
	have := keys(ours, "", map[string]string{})
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var theirs map[string]any
		if err := json.Unmarshal(data, &theirs); err != nil {
			t.Fatal(err)
		}
		want := keys(theirs, "", map[string]string{})
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if strings.HasPrefix(k, "/config/") && k != "/config/limit" {
				if _, ok := have[k]; !ok {
					t.Errorf("%s: %s is missing", filepath.Base(file), k)
				}
				continue
			}
			if k != "/config/limit" && have[k] != want[k] {
				t.Errorf("%s: %s is %q, want %q", filepath.Base(file), k, have[k], want[k])
			}
		}
		for k := range have {
			for _, section := range []string{"/results/", "/configs/", "/versions/", "/n-shot/"} {
				if _, ok := want[k]; !ok && strings.HasPrefix(k, section) && !strings.HasPrefix(k, section+HeldoutTask) {
					t.Errorf("%s has no field %s", filepath.Base(file), k)
				}
			}
		}
		for _, section := range []string{"configs", "versions", "n-shot"} {
			a, b := ours[section].(map[string]any), theirs[section].(map[string]any)
			for task := range b {
				x, _ := json.Marshal(a[task])
				y, _ := json.Marshal(b[task])
				if string(x) != string(y) {
					t.Errorf("%s: %s of %s:\n%s\nwant\n%s", filepath.Base(file), section, task, x, y)
				}
			}
		}
	}
}

// A model whose values have owners of their own says so, others have no such
// members.
func TestDescribeSeparateOwners(t *testing.T) {
	cfg := demoModel(nil, nil).Config
	for _, c := range []struct {
		values model.OwnerMap
		want   string
	}{
		{nil, ""},
		{model.OwnerMap{0, 0}, `"value_owner": "0_0", "value_kv_layers": 1`},
	} {
		text, err := pyJSON{}.dump(describe(cfg.WithOwners(cfg.Owner, c.values)))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(string(text)), " "); !strings.Contains(got, c.want) || c.want == "" && strings.Contains(got, "value_") {
			t.Errorf("expected %q, found %s", c.want, got)
		}
	}
}

// The section of this program, which reports read.
func TestResultSection(t *testing.T) {
	text, err := pyJSON{}.dump(fixedResult(t, fixedOutcome(t)))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Results map[string]map[string]any
		NSample map[string]map[string]int `json:"n-samples"`
		Date    float64
		MLKV    struct {
			Name  string
			Model struct {
				Owner           string
				KVLayers        int `json:"kv_layers"`
				KVHeads         int `json:"kv_heads"`
				Parameters      int
				KVBytesPerToken int `json:"kv_bytes_per_token"`
			}
			Heldout struct {
				Loss        float64
				BitsPerByte float64 `json:"bits_per_byte"`
				Tokens      int
				Buckets     []Bucket
			}
			Provenance map[string]int
		}
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	m := got.MLKV
	cfg := demoModel(nil, nil).Config
	if m.Name != "demo" || m.Model.Owner != "0_1" || m.Model.KVLayers != 2 || m.Model.KVHeads != 2 ||
		m.Model.Parameters != cfg.Parameters() || m.Model.KVBytesPerToken != 2*2*32*2 || m.Provenance["x"] != 1 {
		t.Errorf("section %+v", m)
	}
	if m.Heldout.Tokens < 8 || len(m.Heldout.Buckets) != 1 || m.Heldout.Buckets[0].Loss != m.Heldout.Loss ||
		got.Results[HeldoutTask]["loss,none"] != m.Heldout.Loss {
		t.Errorf("held-out %+v, results %v", m.Heldout, got.Results[HeldoutTask])
	}
	if n := got.NSample["sciq"]; n["original"] != 9 || n["effective"] != 2 {
		t.Errorf("n-samples %v", got.NSample)
	}
	if got.Date != 1700000000.5 {
		t.Errorf("date %f", got.Date)
	}
}

func TestResultOfOneDocument(t *testing.T) {
	o := fixedOutcome(t)
	o.Tasks, o.Heldout = o.Tasks[:1], nil
	o.Tasks[0].Estimates = []Estimate{{1, math.NaN()}, {0, math.NaN()}}
	text, err := pyJSON{}.dump(fixedResult(t, o))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"acc,none": 1.0, "acc_stderr,none": "N/A"`) || !strings.Contains(string(text), `"heldout": null`) {
		t.Errorf("result %s", text)
	}
	var table strings.Builder
	if err := o.table().Markdown(&table); err != nil || !strings.Contains(table.String(), "N/A") {
		t.Errorf("table %s, error %v", table.String(), err)
	}
}

func TestSampleLog(t *testing.T) {
	o := fixedOutcome(t)
	for _, r := range o.Tasks {
		text, err := sampleLog(r)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		if len(lines) != len(r.Documents) {
			t.Fatalf("%s: %d lines for %d documents", r.Name, len(lines), len(r.Documents))
		}
		var row struct {
			DocID     int `json:"doc_id"`
			Doc       map[string]any
			Target    string
			Arguments map[string]map[string]string
			Resps     [][][]string
			Filtered  [][]string `json:"filtered_resps"`
			Metrics   []string
			DocHash   string `json:"doc_hash"`
			Acc       *float64
		}
		if err := json.Unmarshal([]byte(lines[1]), &row); err != nil {
			t.Fatalf("%s: %v", r.Name, err)
		}
		d, first := r.Documents[1], row.Arguments["gen_args_0"]
		if row.DocID != 1 || row.Target != d.Target || first["arg_0"] != d.Context || first["arg_1"] != d.Continuations[0] ||
			len(row.Resps) != len(d.Continuations) || row.Resps[0][0][0] != row.Filtered[0][0] || row.Acc == nil || len(row.DocHash) != 64 ||
			row.Filtered[0][0] != pyFloat(r.Answers[1][0].LogLikelihood) || len(row.Metrics) != len(r.Metrics) {
			t.Errorf("%s: row %s", r.Name, lines[1])
		}
	}
}

func TestCompare(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"v4.json": `{"results": {"sciq": {"acc,none": 0.5, "acc_stderr,none": 0.03, "alias": "sciq"}, "piqa": {"acc,none": 0.5, "acc_stderr,none": "N/A"}}}`,
		"v3.json": `{"results": {"lambada_openai": {"ppl": 30.0, "ppl_stderr": 4.0, "acc": 0.3}}}`,
		"no.json": `{"results": {}}`,
		"x.json":  `{"results": 3}`,
	})
	read := func(name string) Scores {
		s, err := ReadScores(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ours := Scores{
		"sciq":           {"acc": {0.6, 0.04}, "acc_norm": {0.6, 0.04}},
		"piqa":           {"acc": {0.6, 0.04}},
		"lambada_openai": {"perplexity": {33, 3}},
	}
	got := Compare(ours, read("v4.json"))
	if len(got) != 2 || got[0].Task != "piqa" || got[1].Metric != "acc" {
		t.Fatalf("differences %+v", got)
	}
	if !math.IsNaN(got[0].InStdErrs()) || math.Abs(got[1].InStdErrs()-2) > 1e-12 {
		t.Errorf("in standard errors: %g, %g; want NaN and 2", got[0].InStdErrs(), got[1].InStdErrs())
	}
	if d := Compare(ours, read("v3.json")); len(d) != 1 || math.Abs(d[0].InStdErrs()-0.6) > 1e-12 {
		t.Errorf("against version 0.3: %+v", d)
	}
	for _, name := range []string{"no.json", "x.json", "none.json"} {
		if _, err := ReadScores(filepath.Join(dir, name)); ui.ExitCode(err) != ui.ExitInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Published files of both versions can be read and compared.
func TestComparePublished(t *testing.T) {
	authors, err := ReadScores(sharedData(t, "published", "authors", "base_results.json"))
	if err != nil {
		t.Fatal(err)
	}
	eleuther, err := ReadScores(sharedData(t, "published", "pythia-v1_160m-deduped_step143000_0shot.json"))
	if err != nil {
		t.Fatal(err)
	}
	// Both scored the same model; facts: ARC-e .4394 against .4402, LAMBADA
	// perplexity 32.61 against 32.22.
	diffs := Compare(authors, eleuther)
	if len(diffs) < 8 {
		t.Errorf("%d figures in common", len(diffs))
	}
	for _, d := range diffs {
		if se := d.InStdErrs(); !(math.Abs(se) < 1) {
			t.Errorf("%s %s: %.4f against %.4f is %+.2f standard errors", d.Task, d.Metric, d.Ours.Value, d.Theirs.Value, se)
		}
	}
}
