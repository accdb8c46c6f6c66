package eval

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/data"
	"mlkv/internal/engine/device"
	"mlkv/internal/model"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// randomCheckpoint writes a small model of random weights with a tokenizer.
func randomCheckpoint(t *testing.T, name string, change func(*model.Config)) (dir string, tok *tokenizer.Tokenizer) {
	t.Helper()
	tok, file := demoTokenizer(t)
	cfg := model.Plain(512, 32, 2, 2)
	cfg.MaxPositions = 48
	if change != nil {
		change(&cfg)
	}
	dir = filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.Write(dir, cfg, fresh.New(cfg, 1), checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, tokenizer.FileName), file, 0o666); err != nil {
		t.Fatal(err)
	}
	return dir, tok
}

func runEval(t *testing.T, ctx context.Context, o Options) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	o.Device = device.Options{Name: "cpu"}
	err = Run(ctx, o, ui.Streams{Out: &out, Err: &errs, Width: 80})
	return out.String(), errs.String(), err
}

func TestRun(t *testing.T) {
	dir, _ := randomCheckpoint(t, "tiny", nil)
	text := filepath.Join(writeFiles(t, map[string]string{"val.txt": strings.Repeat("The buffer is flushed before the file is closed.\n", 20)}), "val.txt")
	o := Options{
		Models: []string{dir}, Tasks: []string{"sciq", "lambada_openai"}, Data: demoData, Heldout: []string{text},
		Limit: 8, Output: filepath.Join(t.TempDir(), "out"), LogSamples: true,
	}
	stdout, stderr, err := runEval(t, t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| sciq ", "| lambada_openai ", "perplexity", "| heldout ", "bits_per_byte", "| 0-47"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("table lacks %q:\n%s", want, stdout)
		}
	}
	if strings.Contains(stderr, "|") {
		t.Errorf("results on standard error: %s", stderr)
	}
	for _, name := range []string{ResultName, "samples_sciq.jsonl", "samples_lambada_openai.jsonl"} {
		if _, err := os.Stat(filepath.Join(o.Output, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(o.Output, LogName)); err == nil {
		t.Error("the request log is left over")
	}

	if _, _, err := runEval(t, t.Context(), o); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a folder that holds results: %v", err)
	}
	first, err := os.ReadFile(filepath.Join(o.Output, ResultName))
	if err != nil {
		t.Fatal(err)
	}
	o.Force, o.LogSamples, o.BatchTokens, o.JSON = true, false, 1, true
	o.Compare = filepath.Join(o.Output, ResultName)
	stdout, _, err = runEval(t, t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.Output, "samples_sciq.jsonl")); err == nil {
		t.Error("samples of the results that were replaced are left over")
	}
	// Scores do not change with the groups that requests lie in, beyond the
	// rounding that the engine's own tests bound.
	var a, b struct {
		Results    map[string]map[string]any
		Comparison struct {
			Figures []struct{ Difference float64 }
		}
	}
	if err := json.Unmarshal(first, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(stdout), &b); err != nil {
		t.Fatalf("--json printed %s: %v", stdout, err)
	}
	for task, figures := range a.Results {
		for k, v := range figures {
			if !near(b.Results[task][k], v) {
				t.Errorf("%s %s: %v with large groups, %v alone", task, k, v, b.Results[task][k])
			}
		}
	}
	if len(b.Comparison.Figures) != 7 {
		t.Errorf("comparison of %d figures, want 7", len(b.Comparison.Figures))
	}
	for _, f := range b.Comparison.Figures {
		if math.Abs(f.Difference) > 1 { // of a perplexity of a million
			t.Errorf("comparison with itself: %+v", b.Comparison)
		}
	}
}

// near compares figures to 1e-5 of their size, anything else exactly.
func near(a, b any) bool {
	x, ok := a.(float64)
	y, both := b.(float64)
	if !ok || !both {
		return a == b
	}
	return math.Abs(x-y) <= 1e-5*math.Abs(y)
}

func TestRunSeveralModels(t *testing.T) {
	plain, _ := randomCheckpoint(t, "plain", nil)
	shared, _ := randomCheckpoint(t, "shared/uptrain/model", func(c *model.Config) {
		c.KVHeads, c.Owner = 1, model.OwnerMap{0, 0}
	})
	o := Options{Models: []string{plain, shared}, Tasks: []string{"piqa"}, Data: demoData, Limit: 3, Output: t.TempDir()}
	stdout, _, err := runEval(t, t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stdout, "plain\n") || !strings.Contains(stdout, "shared\n") {
		t.Errorf("output %s", stdout)
	}
	for _, name := range []string{"plain", "shared"} {
		if _, err := os.Stat(filepath.Join(o.Output, name, ResultName)); err != nil {
			t.Error(err)
		}
	}
	o.Models = []string{plain, plain}
	if _, _, err := runEval(t, t.Context(), o); ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("one checkpoint twice: %v", err)
	}
}

// An interrupted run says what it keeps, ends as interrupted, and goes on.
func TestRunInterrupted(t *testing.T) {
	dir, _ := randomCheckpoint(t, "tiny", nil)
	o := Options{Models: []string{dir}, Tasks: []string{"piqa"}, Data: demoData, Limit: 3, Output: filepath.Join(t.TempDir(), "out")}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, stderr, err := runEval(t, ctx, o)
	if ui.ExitCode(err) != ui.ExitInterrupted || !strings.Contains(stderr, LogName) {
		t.Errorf("error %v, messages %s", err, stderr)
	}
	if _, err := os.Stat(filepath.Join(o.Output, ResultName)); err == nil {
		t.Error("an interrupted run left results")
	}
	if _, _, err := runEval(t, t.Context(), o); err != nil {
		t.Errorf("going on: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	good, tok := randomCheckpoint(t, "good", nil)
	narrow, _ := randomCheckpoint(t, "narrow", func(c *model.Config) { c.VocabSize = 300 })
	bare, _ := randomCheckpoint(t, "bare", nil)
	if err := os.Remove(filepath.Join(bare, tokenizer.FileName)); err != nil {
		t.Fatal(err)
	}
	files := writeFiles(t, map[string]string{"bad.jsonl": "{}\n", "short.txt": "", "x.rows": "junk"})
	foreign := filepath.Join(t.TempDir(), "foreign.rows")
	writeShard(t, foreign, strings.Repeat("0", 64))
	own := filepath.Join(t.TempDir(), "own.rows")
	writeShard(t, own, tok.Checksum())

	base := Options{Models: []string{good}, Tasks: []string{"piqa"}, Data: demoData, Limit: 1}
	for _, c := range []struct {
		name   string
		change func(*Options)
		code   int
		want   string
	}{
		{"a task that is not known", func(o *Options) { o.Tasks = []string{"piqqa"} }, ui.ExitUsage, "piqa"},
		{"no task", func(o *Options) { o.Tasks = nil }, ui.ExitUsage, "task"},
		{"held-out text not given", func(o *Options) { o.Tasks = []string{"heldout"} }, ui.ExitUsage, "--heldout"},
		{"texts not given", func(o *Options) { o.Tasks = []string{"text"} }, ui.ExitUsage, "--text"},
		{"examples before a text", func(o *Options) {
			o.Tasks, o.Text, o.Shots = []string{"text"}, []string{filepath.Join(good, "config.json")}, Shots{Count: 1}
		}, ui.ExitUsage, "--shots"},
		{"no model", func(o *Options) { o.Models = nil }, ui.ExitUsage, "checkpoint"},
		{"a model that is not there", func(o *Options) { o.Models = []string{"nowhere"} }, ui.ExitInput, "nowhere"},
		{"no tokenizer", func(o *Options) { o.Models = []string{bare} }, ui.ExitInput, "tokenizer"},
		{"a tokenizer of another vocabulary", func(o *Options) { o.Models = []string{narrow} }, ui.ExitInput, "vocab_size"},
		{"a folder without task files", func(o *Options) { o.Data = files }, ui.ExitInput, "valid.jsonl"},
		{"a negative limit", func(o *Options) { o.Limit = -1 }, ui.ExitUsage, "limit"},
		{"a comparison that is not there", func(o *Options) { o.Compare = "nowhere.json" }, ui.ExitInput, "nowhere.json"},
		{"text without a text field", func(o *Options) { o.Heldout = []string{filepath.Join(files, "bad.jsonl")} }, ui.ExitInput, "bad.jsonl"},
		{"empty text", func(o *Options) { o.Heldout = []string{filepath.Join(files, "short.txt")} }, ui.ExitInput, "short.txt"},
		{"a shard that is none", func(o *Options) { o.Heldout = []string{filepath.Join(files, "x.rows")} }, ui.ExitInput, "x.rows"},
		{"a shard of another tokenizer", func(o *Options) { o.Heldout = []string{foreign} }, ui.ExitInput, "tokenizer"},
		{"an unknown device", func(o *Options) { o.Device.Name = "abacus" }, ui.ExitUsage, "abacus"},
	} {
		o := base
		o.Output, o.Device.Name = filepath.Join(t.TempDir(), "out"), "cpu"
		c.change(&o)
		var out bytes.Buffer
		err := Run(t.Context(), o, ui.Streams{Out: &out, Err: &out, Width: 80})
		if ui.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: exit code %d, %v; want %d and %q", c.name, ui.ExitCode(err), err, c.code, c.want)
		}
		if _, err := os.Stat(o.Output); err == nil {
			t.Errorf("%s: the output folder was made", c.name)
		}
	}
	base.Tasks, base.Heldout = nil, []string{own}
	if _, _, err := runEval(t, t.Context(), base); err != nil {
		t.Errorf("a shard of the model's tokenizer: %v", err)
	}
}

// writeShard writes a packed shard of three rows.
func writeShard(t *testing.T, path, checksum string) {
	t.Helper()
	sum, err := hex.DecodeString(checksum)
	if err != nil {
		t.Fatal(err)
	}
	w, err := data.NewWriter(path, data.Header{RowLength: 70, Packing: data.Stream, VocabSize: 400, Tokenizer: [32]byte(sum)})
	if err != nil {
		t.Fatal(err)
	}
	row := make([]uint16, 71)
	for i := range row {
		row[i] = uint16(10 + i)
	}
	for range 3 {
		if err := w.WriteRow(row); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
}
