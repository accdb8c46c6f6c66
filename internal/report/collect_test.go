package report

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/ui"
)

func collect(t *testing.T, paths ...string) []*Row {
	t.Helper()
	rows, err := Collect(paths, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func names(rows []*Row) string {
	var out []string
	for _, r := range rows {
		out = append(out, r.Name)
	}
	return strings.Join(out, ", ")
}

func TestCollectWorkFolders(t *testing.T) {
	rows := collect(t, writeFixture(t))
	if got := names(rows); got != "MHA-16, MLKV-8, MQA-4, MLKV-2" {
		t.Fatalf("rows %s; want the largest cache first", got)
	}
	for i, want := range fixture {
		r := rows[i]
		if r.Converted.Value != want.converted || r.Heldout.Value != want.uptrain || r.Heldout.StdErr != 0.01 {
			t.Errorf("%s: losses %v, %v; want %g, %g from training and evaluation", r.Name, r.Converted, r.Heldout, want.converted, want.uptrain)
		}
		if r.Shape == nil || r.Shape.Owners != want.owners || r.Shape.KVBytes != want.bytes() || r.Shape.Parameters != 1000+want.owners {
			t.Errorf("%s: shape %+v", r.Name, r.Shape)
		}
		if len(r.Curve) != 221 || r.Curve[0].Heldout != want.converted || !math.IsNaN(r.Curve[0].Loss) {
			t.Errorf("%s: a curve of %d points beginning with %+v, want 221", r.Name, len(r.Curve), r.Curve[0])
		}
		if avg := r.Average([]string{"arc_easy", "lambada_openai"}); math.Abs(avg.Value-(want.arc+want.lambada)/2) > 1e-12 ||
			math.Abs(avg.StdErr-0.02/math.Sqrt2) > 1e-12 {
			t.Errorf("%s: average %+v", r.Name, avg)
		}
		if r.Average(PaperTasks).Known() {
			t.Errorf("%s: an average over tasks that were not run", r.Name)
		}
	}
}

// What each stage alone says of a row.
func TestCollectStages(t *testing.T) {
	r := fixture[1]
	dir := t.TempDir()
	work := filepath.Join(dir, "row")
	put(t, work, "converted/convert.json", "{}")
	put(t, work, "converted/config.json", r.config())
	rows := collect(t, dir)
	if len(rows) != 1 || rows[0].Name != "row" || rows[0].Shape.KVBytes != r.bytes() || rows[0].Heldout.Known() {
		t.Fatalf("converted: got %+v", rows[0])
	}

	put(t, work, "uptrain/metrics.jsonl", r.metrics(15)+`{"step":16,"lo`)
	rows = collect(t, dir)
	if len(rows) != 1 || rows[0].Name != "row" || rows[0].Converted.Value != r.converted || len(rows[0].Curve) != 17 {
		t.Fatalf("unfinished run: got %+v", rows[0])
	}
	if got := rows[0].Curve[11]; got.Step != 10 || rows[0].Heldout.Value != got.Heldout {
		t.Errorf("unfinished run: held-out loss %v, want that of step 10", rows[0].Heldout)
	}

	converted := filepath.Join(work, "converted")
	put(t, work, "eval-converted/results.json", r.result(converted, 5.25, 6400, 1))
	rows = collect(t, dir)
	if rows[0].Name != r.name || rows[0].Converted.Value != 5.25 || rows[0].Accuracy["arc_easy"].Value != r.arc {
		t.Errorf("evaluation of the converted model: got %+v", rows[0])
	}
	if w := unequalHeldout(rows); len(w) != 1 || !strings.Contains(w[0], "6,400 tokens, the other of 640") {
		t.Errorf("warnings: %q", w)
	}

	after := r
	after.arc = 0.47
	trained := after.result(filepath.Join(work, "uptrain/model"), 3.125, 6400, 2)
	delete(trained["results"].(object), "lambada_openai")
	put(t, work, "eval/results.json", trained)
	rows = collect(t, dir)
	if len(rows) != 1 || rows[0].Converted.Value != 5.25 || rows[0].Heldout.Value != 3.125 || rows[0].Accuracy["arc_easy"].Value != 0.47 {
		t.Errorf("evaluation of the trained model: got %+v", rows[0])
	}
	if _, ok := rows[0].Accuracy["lambada_openai"]; ok {
		t.Error("the trained model's row has an accuracy of the converted one")
	}
}

// TestSeparateOwners: the owners of values are counted apart, whichever file
// tells of them.
func TestSeparateOwners(t *testing.T) {
	dir := t.TempDir()
	r := fixture[1]
	evaluated := r.result("evaluated", 3, 10, 1)
	described := evaluated["mlkv"].(object)["model"].(object)
	described["value_owner"], described["value_kv_layers"] = "0_1_1_3", 3
	config := r.config()
	config["layer_map"], config["value_layer_map"] = "0_0_2_2", "0_1_1_3"
	converted := filepath.Dir(put(t, dir, "row/converted/convert.json", "{}"))
	put(t, converted, "config.json", config)
	measured := measurements("2026-01-01T00:00:00Z")
	models := measured["models"].([]object)
	models[0]["kv_layers"], models[0]["value_kv_layers"] = 2, 3
	for _, paths := range [][]string{
		{put(t, dir, "results.json", evaluated)}, {filepath.Dir(converted)}, {put(t, dir, "measurements.json", measured)},
	} {
		rows := collect(t, paths...)
		if s := rows[0].Shape; s.Owners != 2 || s.ValueOwners != 3 {
			t.Errorf("%s: %+v", paths, s)
		}
		var text, csv strings.Builder
		if err := Table(rows, nil, "text").Text(&text); err != nil || !strings.Contains(text.String(), "2+3 x 4") {
			t.Errorf("%s: %v\n%s", paths, err, &text)
		}
		if err := Table(rows, nil, "csv").CSV(&csv); err != nil || !strings.Contains(csv.String(), "kv_layers,value_kv_layers,kv_heads") || !strings.Contains(csv.String(), "2,3,4,") {
			t.Errorf("%s: %v\n%s", paths, err, &csv)
		}
	}
}

func TestCollectNewestEvaluationCounts(t *testing.T) {
	dir := t.TempDir()
	r := fixture[0]
	put(t, dir, "b.json", r.result("m", 3, 10, 200))
	put(t, dir, "a.json", r.result("m", 4, 10, 100))
	if rows := collect(t, dir); len(rows) != 1 || rows[0].Heldout.Value != 3 {
		t.Errorf("got %d rows, %+v", len(rows), rows[0])
	}
}

func TestCollectOneNameTwice(t *testing.T) {
	dir := t.TempDir()
	r := fixture[0]
	put(t, dir, "a.json", r.result("first/uptrain/model", 3, 10, 1))
	put(t, dir, "b.json", r.result("second/uptrain/model", 4, 10, 2))
	rows := collect(t, dir)
	if len(rows) != 2 || rows[0].Name != r.name || !strings.HasPrefix(rows[1].Name, r.name+" (") || !strings.HasSuffix(rows[1].Name, "second)") {
		t.Errorf("two models of one name became %s", names(rows))
	}

	// A run that was moved after its evaluation still meets it.
	moved := t.TempDir()
	put(t, moved, "run/config.yaml", "name: "+r.name+"\n")
	put(t, moved, "run/metrics.jsonl", r.metrics(10))
	put(t, moved, "results.json", r.result("gone/uptrain/model", 3, 640, 1))
	if rows := collect(t, moved); len(rows) != 1 || len(rows[0].Curve) == 0 || rows[0].Heldout.Value != 3 {
		t.Errorf("a moved run became %s", names(rows))
	}
}

func TestCollectRefuses(t *testing.T) {
	good := fixture[0]
	dir := t.TempDir()
	for _, c := range []struct {
		path, want string
	}{
		{filepath.Join(dir, "missing"), "missing"},
		{put(t, dir, "empty/readme.txt", "x"), "expected a result file"},
		{filepath.Dir(put(t, dir, "nothing/notes.json", "{}")), "nothing: expected result files"},
		{put(t, dir, "other.json", "{}"), `other.json: expected result files (JSON with "results")`},
		{put(t, dir, "cut.json", `{"results": {"arc_easy": {`), "cut.json: expected a result file of lm-evaluation-harness"},
		{filepath.Dir(put(t, dir, "walk/results.json", `{"results": [`)), "results.json: expected a result file"},
		{put(t, dir, "kind.json", `{"results": [1]}`), "kind.json: expected a result file"},
		{put(t, dir, "none.json", `{"results": {"x": {"alias": "x"}}}`), `none.json: field "results": expected the accuracy`},
		{filepath.Dir(put(t, dir, "run/metrics.jsonl", good.metrics(2)+"{]\n")), `metrics.jsonl:4: expected an object of metrics, found "{]"`},
		{filepath.Dir(put(t, dir, "type/metrics.jsonl", `{"step":"one"}`+"\n")), "metrics.jsonl:1:"},
	} {
		_, err := Collect([]string{c.path}, nil)
		if ui.ExitCode(err) != ui.ExitInput || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: got %v, want an input error with %q", c.path, err, c.want)
		}
	}
	broken := good.config()
	broken["num_attention_heads"] = 3
	put(t, dir, "shape/convert.json", "{}")
	path := put(t, dir, "shape/config.json", broken)
	if _, err := Collect([]string{filepath.Dir(path)}, nil); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), path) {
		t.Errorf("config.json that no model can have: got %v", err)
	}
}

// The averages that the paper's table 2 gives, and the KV cache and size of its
// models (162.32-162.33 million parameters).
func TestPublishedAverages(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "data", "published", "authors")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("needs shared/data/published")
	}
	want := map[string]struct {
		average float64
		bytes   int
	}{
		"pythia-160m-deduped": {52.79, 36864}, "GQA-48": {50.17, 12288}, "MLKV-48": {49.29, 12288},
		"MQA-12": {49.43, 3072}, "MLKV-12": {48.78, 3072}, "MLKV-6": {49.06, 1536}, "MLKV-4": {47.31, 1024},
		"MLKV-2": {46.78, 512}, "MLKV-1": {41.12, 256}, "pythia-160m-random": {25.10, 0},
	}
	rows := collect(t, dir)
	if len(rows) != len(want) {
		t.Errorf("%d rows, want %d", len(rows), len(want))
	}
	for _, r := range rows {
		w, ok := want[r.Name]
		if !ok {
			t.Errorf("unexpected row %q", r.Name)
			continue
		}
		if got := 100 * r.Average(PaperTasks).Value; math.Abs(got-w.average) > 0.005 {
			t.Errorf("%s: average %.4f, want %.2f", r.Name, got, w.average)
		}
		if w.bytes == 0 {
			continue
		}
		if r.Shape == nil || r.Shape.KVBytes != w.bytes || r.Shape.Parameters/1e4 != 16231 && r.Shape.Parameters/1e4 != 16232 && r.Shape.Parameters/1e4 != 16233 {
			t.Errorf("%s: shape %+v, want %d bytes a token and 162.32 million parameters", r.Name, r.Shape, w.bytes)
		}
	}
	rows = collect(t, filepath.Dir(dir)) // with EleutherAI's files of harness 0.3
	for _, r := range rows {
		if r.Name == "pythia-v1.1-70m" && (r.Shape.KVBytes != 12288 || math.Abs(r.Accuracy["sciq"].Value-0.601) > 1e-9) {
			t.Errorf("%s: %+v, SciQ %v", r.Name, r.Shape, r.Accuracy["sciq"])
		}
	}
}

func TestRunWritesTable(t *testing.T) {
	dir := writeFixture(t)
	var out strings.Builder
	s := ui.Streams{Out: &out, Err: io.Discard}
	if err := Run(context.Background(), Options{Paths: []string{dir}, Format: "text"}, s); err != nil {
		t.Fatal(err)
	}
	want := `
model   KV layers x heads  parameters  KV bytes/token  of largest  loss converted   loss  bits/byte  arc_easy  lambada_openai  average
MHA-16  4 x 4                   1,004           1,024      100.0%           3.000  2.900      0.967     50.00           40.00    45.00
MLKV-8  2 x 4                   1,002             512       50.0%           5.000  3.100      1.033     48.00           35.00    41.50
MQA-4   4 x 1                   1,004             256       25.0%           5.500  3.400      1.133     44.00           30.00    37.00
MLKV-2  2 x 1                   1,002             128       12.5%           6.000  3.600      1.200     42.00           28.00    35.00
`[1:]
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	path := filepath.Join(t.TempDir(), "table.csv")
	o := Options{Paths: []string{dir}, Published: []string{filepath.Join(dir, "MLKV-2-work")}, Format: "csv", Out: path, Tasks: []string{"arc_easy"}}
	if err := Run(context.Background(), o, s); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"name,series,kv_layers,kv_heads,parameters,kv_bytes_per_token,kv_ratio,loss_converted,loss,loss_stderr,bits_per_byte,arc_easy,arc_easy_stderr,lambada_openai,lambada_openai_stderr,average,average_stderr\n",
		"MLKV-2,own,2,1,1002,128,0.125,6,3.6,0.01,1.2,42,2,28.000000000000004,2,42,2\nMLKV-2,published,",
	} {
		if !strings.Contains(string(data), line) {
			t.Errorf("table lacks\n%s\nin\n%s", line, data)
		}
	}
	if err := Run(context.Background(), o, s); ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("overwriting without force: got %v", err)
	}
	o.Force = true
	if err := Run(context.Background(), o, s); err != nil {
		t.Error(err)
	}
}

func TestRunRefusesOptions(t *testing.T) {
	s := ui.Streams{Out: io.Discard, Err: io.Discard}
	for _, o := range []Options{{Format: "text"}, {Paths: []string{writeFixture(t)}, Format: "xml"}} {
		if err := Run(context.Background(), o, s); ui.ExitCode(err) != ui.ExitUsage {
			t.Errorf("%+v: got %v, want a usage error", o, err)
		}
	}
}

func FuzzParseResult(f *testing.F) {
	for _, seed := range []string{
		`{"results":{"arc_easy":{"acc,none":0.5,"acc_stderr,none":"N/A"}},"config":{"model_args":"pretrained=x/pythia-160m-mlkv-6-b12"}}`,
		`{"results":{"heldout":{"loss,none":1}},"config":{"model_args":{"pretrained":"y"}},"mlkv":{"name":"","model":{}}}`,
		`{"results":null}`, `[]`, `{"results":{"a":{"acc":1e400}}}`, `{`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseResult("x.json", data)
		if err != nil && (ui.ExitCode(err) != ui.ExitInput || !strings.HasPrefix(err.Error(), "x.json: ")) {
			t.Errorf("error without file or code: %v", err)
		}
		if err == nil && e != nil && len(e.row.Accuracy) == 0 && !e.row.Heldout.Known() {
			t.Error("an evaluation without figures")
		}
	})
}

func FuzzReadMetrics(f *testing.F) {
	f.Add(fixture[0].metrics(3))
	f.Add(`{"step":0,"heldout_loss":null}` + "\n" + `{"st`)
	f.Fuzz(func(t *testing.T, text string) {
		r := newRow("x")
		if err := r.readMetrics("x.jsonl", strings.NewReader(text)); err != nil && !strings.HasPrefix(err.Error(), "x.jsonl:") {
			t.Errorf("error without place: %v", err)
		}
	})
}
