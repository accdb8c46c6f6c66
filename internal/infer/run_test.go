package infer

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/engine/device"
	"mlkv/internal/model"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// randomCheckpoint writes a small model of random weights with a tokenizer
// that knows bytes only.
func randomCheckpoint(t *testing.T) string {
	t.Helper()
	file, err := tokenizer.Train(func(yield func(string, error) bool) { yield("some text", nil) }, 260)
	if err != nil {
		t.Fatal(err)
	}
	cfg := model.Plain(260, 32, 3, 2)
	cfg.MaxPositions, cfg.KVHeads, cfg.Owner = 40, 1, model.OwnerMap{0, 0, 2}
	dir := t.TempDir()
	if err := checkpoint.Write(dir, cfg, fresh.New(cfg, 5), checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, tokenizer.FileName), file, 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

func runGenerate(t *testing.T, o Options) (string, error) {
	t.Helper()
	var out bytes.Buffer
	o.Device = device.Options{Name: "cpu"}
	err := Run(t.Context(), o, ui.Streams{Out: &out, Err: new(bytes.Buffer), Width: 80})
	return out.String(), err
}

type line struct {
	Prompt, Text, End string
	Tokens            []int32
}

func TestRun(t *testing.T) {
	dir := randomCheckpoint(t)
	o := Options{Model: dir, Prompts: []string{"one", "", "three and more"}, MaxTokens: 12, JSON: true,
		Sampling: Sampling{Temperature: 1, Seed: 4}}
	out, err := runGenerate(t, o)
	if err != nil {
		t.Fatal(err)
	}
	var lines []line
	for _, text := range strings.Split(strings.TrimSpace(out), "\n") {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		lines = append(lines, l)
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, l := range lines {
		if l.Prompt != o.Prompts[i] || l.End == EndLength && len(l.Tokens) != 12 {
			t.Errorf("prompt %d: %+v", i, l)
		}
	}

	// One prompt alone: the same text, streamed, after the prompt.
	o.Prompts, o.JSON, o.Echo = o.Prompts[:1], false, true
	alone, err := runGenerate(t, o)
	if err != nil {
		t.Fatal(err)
	}
	if alone != "one"+lines[0].Text+"\n" {
		t.Errorf("streamed %q, want %q", alone, "one"+lines[0].Text+"\n")
	}
	o.Prompts = []string{"one", "two"}
	both, err := runGenerate(t, o)
	if err != nil || !strings.HasPrefix(both, "--- prompt 1\n"+alone+"--- prompt 2\ntwo") {
		t.Errorf("two prompts: %q, error %v", both, err)
	}
}

func TestRunRefuses(t *testing.T) {
	dir := randomCheckpoint(t)
	for _, c := range []struct {
		name string
		o    Options
		code int
		want string
	}{
		{"no prompt", Options{Model: dir, MaxTokens: 1}, ui.ExitUsage, "--prompt"},
		{"no tokens", Options{Model: dir, Prompts: []string{"x"}}, ui.ExitUsage, "max-tokens"},
		{"bits of the cache", Options{Model: dir, Prompts: []string{"x"}, MaxTokens: 1, CacheBits: 5}, ui.ExitUsage, "cache-bits"},
		{"a prompt beyond the context", Options{Model: dir, Prompts: []string{"x", strings.Repeat("x", 40)}, MaxTokens: 1}, ui.ExitUsage, "prompt 2: 40 tokens"},
		{"a negative temperature", Options{Model: dir, Prompts: []string{"x"}, MaxTokens: 1, Sampling: Sampling{Temperature: -1}}, ui.ExitUsage, "temperature"},
		{"no model", Options{Model: "nowhere", Prompts: []string{"x"}, MaxTokens: 1}, ui.ExitInput, "nowhere"},
	} {
		if _, err := runGenerate(t, c.o); ui.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: exit code %d, %v; want %d and %q", c.name, ui.ExitCode(err), err, c.code, c.want)
		}
	}
}
