package tokenize

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// trained trains a tokenizer with the command and returns its file.
func trained(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), tokenizer.FileName)
	o := TrainOptions{Inputs: []string{write(t, "a.txt", "ab ab ab"), write(t, "b.jsonl", `{"text": "ab ab"}`)}, Vocab: 247, Out: out}
	if err := Train(t.Context(), o, ui.Streams{Out: &strings.Builder{}, Err: &strings.Builder{}}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRun(t *testing.T) {
	tok := trained(t) // ids: ab 245, " ab" 246
	for name, c := range map[string]struct {
		o           Options
		stdin, want string
	}{
		"arguments":      {Options{Texts: []string{"ab", " abab"}}, "", "245\n246 245\n"},
		"empty":          {Options{Texts: []string{""}}, "", "\n"},
		"standard input": {Options{}, "ab ab", "245 246\n"},
		"file":           {Options{Files: []string{write(t, "x", "abab")}}, "", "245 245\n"},
		"json lines":     {Options{JSONL: true}, "{\"text\": \"ab\"}\n\n\" ab\"", "245\n246\n"},
		"count":          {Options{Count: true, Texts: []string{"ab ab", ""}}, "", "2\n0\n"},
		"decode":         {Options{Decode: true, Texts: []string{"245 246", "[245,246]"}}, "", "ab ab\nab ab\n"},
		"decode lines":   {Options{Decode: true}, "245\n246 245", "ab\n abab\n"},
		"decode json":    {Options{Decode: true, JSONL: true}, "{\"ids\": [245]}\n[246]", "ab\n ab\n"},
		"objects":        {Options{JSON: true, Texts: []string{"ab ab<"}}, "", `{"text":"ab ab<","ids":[245,246,29],"tokens":["ab"," ab","<"]}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Tokenizer = tok
			var out strings.Builder
			if err := Run(t.Context(), c.o, ui.Streams{In: strings.NewReader(c.stdin), Out: &out}); err != nil || out.String() != c.want {
				t.Errorf("got %q, %v; want %q", out.String(), err, c.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	tok := trained(t)
	for name, c := range map[string]struct {
		o     Options
		stdin string
		code  int
		word  string
	}{
		"tokenizer":    {Options{Tokenizer: "/none"}, "", ui.ExitInput, "/none"},
		"file":         {Options{Files: []string{"/none"}}, "", ui.ExitInput, "/none"},
		"invalid":      {Options{}, "\xff", ui.ExitInput, "UTF-8"},
		"broken":       {Options{JSONL: true}, "{}\n", ui.ExitInput, `-:1: field "text"`},
		"not JSON":     {Options{JSONL: true}, "\"a\"\nx\n", ui.ExitInput, "-:2"},
		"no ids":       {Options{JSONL: true, Decode: true}, "{}", ui.ExitInput, `field "ids"`},
		"ids":          {Options{Decode: true, Texts: []string{"a"}}, "", ui.ExitUsage, `"a"`},
		"unknown id":   {Options{Decode: true, Texts: []string{"247"}}, "", ui.ExitUsage, "vocabulary of 247"},
		"unknown line": {Options{Decode: true}, "1\n-1", ui.ExitInput, "-:2"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.o.Tokenizer == "" {
				c.o.Tokenizer = tok
			}
			var out strings.Builder
			err := Run(t.Context(), c.o, ui.Streams{In: strings.NewReader(c.stdin), Out: &out})
			if ui.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.word) {
				t.Errorf("error %v, want exit code %d and %q", err, c.code, c.word)
			}
		})
	}
}

func TestTrainErrors(t *testing.T) {
	text := write(t, "a.txt", "ab")
	taken := write(t, "t.json", "{}")
	for name, c := range map[string]struct {
		o    TrainOptions
		code int
	}{
		"no output":  {TrainOptions{Inputs: []string{text}, Vocab: 300}, ui.ExitUsage},
		"taken":      {TrainOptions{Inputs: []string{text}, Vocab: 300, Out: taken}, ui.ExitUsage},
		"vocabulary": {TrainOptions{Inputs: []string{text}, Vocab: 3, Out: taken, Force: true}, ui.ExitUsage},
		"bad record": {TrainOptions{Inputs: []string{write(t, "a.jsonl", "{}")}, Vocab: 300, Out: taken, Force: true}, ui.ExitInput},
		"no input":   {TrainOptions{Inputs: []string{"/none"}, Vocab: 300, Out: taken, Force: true}, ui.ExitInput},
	} {
		t.Run(name, func(t *testing.T) {
			err := Train(t.Context(), c.o, ui.Streams{Out: &strings.Builder{}, Err: &strings.Builder{}})
			if ui.ExitCode(err) != c.code {
				t.Errorf("error %v, want exit code %d", err, c.code)
			}
		})
	}
	if b, err := os.ReadFile(taken); err != nil || string(b) != "{}" {
		t.Errorf("a failed training changed the file: %s, %v", b, err)
	}
}
