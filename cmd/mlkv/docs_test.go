package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"mlkv/internal/ui"
)

// TestDocumentedCommands parses every mlkv command in the code blocks of the
// README and the docs: the command must exist and take the flags that it is
// shown with. testdata/script runs the whole way of the data.
func TestDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range codeLines(string(text)) {
			args := commandOf(line)
			if args == nil {
				continue
			}
			found++
			root := newRoot(&app{Streams: ui.Streams{}})
			cmd, rest, err := root.Find(args)
			if err != nil || cmd == root {
				t.Errorf("%s: %q: no such command", filepath.Base(page), line)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil && err != pflag.ErrHelp {
				t.Errorf("%s: %q: %v", filepath.Base(page), line, err)
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d commands in the README and docs, expected many more", found)
	}
}

// codeLines are the lines within ``` fences, continued lines joined.
func codeLines(text string) []string {
	var out []string
	inside := false
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			inside = !inside
		} else if inside {
			out = append(out, line)
		}
	}
	return out
}

// commandOf is the argument list of a line that calls mlkv, nil for others.
func commandOf(line string) []string {
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " > ")
	fields := strings.Fields(strings.TrimPrefix(line, "$ "))
	if len(fields) < 2 || (fields[0] != "mlkv" && fields[0] != "bin/mlkv") {
		return nil
	}
	for i, f := range fields {
		fields[i] = strings.Trim(f, `'"`)
	}
	return fields[1:]
}
