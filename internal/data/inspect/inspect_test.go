package inspect

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/data"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// folder holds a shard of a tokenizer trained in the test.
func folder(t *testing.T) (dir, tokenizerPath string) {
	t.Helper()
	dir = t.TempDir()
	file, err := tokenizer.Train(func(yield func(string, error) bool) { yield("some words some more", nil) }, 260)
	if err != nil {
		t.Fatal(err)
	}
	tokenizerPath = filepath.Join(t.TempDir(), tokenizer.FileName)
	if err := os.WriteFile(tokenizerPath, file, 0o666); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	h := data.Header{RowLength: 30, Packing: data.Authors, VocabSize: tok.VocabSize()}
	if err := h.SetTokenizer(tok.Checksum()); err != nil {
		t.Fatal(err)
	}
	w, err := data.NewWriter(filepath.Join(dir, "a"+data.ShardSuffix), h)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"some", "some<|endoftext|>words<|endoftext|>", "more words"} {
		if err := w.WriteRow(tok.AppendEncode(nil, text)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	return dir, tokenizerPath
}

func run(t *testing.T, o Options) (string, error) {
	t.Helper()
	var out, errs strings.Builder
	err := Run(t.Context(), o, ui.Streams{Out: &out, Err: &errs, Width: 80})
	return out.String(), err
}

func TestRun(t *testing.T) {
	dir, tok := folder(t)
	out, err := run(t, Options{Paths: []string{dir}, Tokenizer: tok, Samples: 3, JSON: true})
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	var rows, stretches int64
	for _, b := range r.RowLength {
		rows += b.Count
	}
	for _, b := range r.Stretches {
		stretches += b.Count
	}
	if r.Rows != 3 || rows != 3 || r.EndOfText != 2 || stretches != 4 || len(r.Samples) != 3 || r.Samples[2].Text != "more words" {
		t.Errorf("report %+v", r)
	}
	text, err := run(t, Options{Paths: []string{dir}, Tokenizer: tok, Samples: 1})
	if err != nil || !strings.Contains(text, "every row checked") || !strings.Contains(text, "some") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestDamage(t *testing.T) {
	dir, tok := folder(t)
	path := filepath.Join(dir, "a"+data.ShardSuffix)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[256+2] ^= 1
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, Options{Paths: []string{path}}); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), path) {
		t.Errorf("a changed token: %v", err)
	}
	if _, err := run(t, Options{Paths: []string{path}, SkipCheck: true}); err != nil {
		t.Errorf("headers only: %v", err)
	}
	other, _ := folder(t)
	changed, err := os.ReadFile(tok)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tok, append(changed, '\n'), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, Options{Paths: []string{other}, Tokenizer: tok, Samples: 1}); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), "another tokenizer") {
		t.Errorf("another tokenizer: %v", err)
	}
}
