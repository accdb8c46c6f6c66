package source

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// runes stands for a tokenizer: a token is a rune.
func runes(text string) []int32 { return []int32(text) }

func TestEncoded(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("Some words, naïve 日本語 out. ", 2*blockBytes/32) // in several blocks
	tree := filepath.Join(dir, "tree")
	for name, text := range map[string]string{
		"long.txt": long, "lines.jsonl": `{"text":"one"}` + "\n" + `{"text":"two"}` + "\n",
		"tree/a.go": "package a", "tree/b.go": "\x00", "tree/c.go": "package c", "bad.jsonl": `{"text":1}` + "\n",
	} {
		write(t, filepath.Join(dir, name), []byte(text))
	}
	for _, test := range []struct {
		path string
		want []string
		fail string
	}{
		{path: filepath.Join(dir, "long.txt"), want: []string{long}},
		{path: filepath.Join(dir, "lines.jsonl"), want: []string{"one", "two"}},
		{path: tree, want: []string{"package a", "package c"}},
		{path: filepath.Join(dir, "bad.jsonl"), fail: "bad.jsonl:1"},
	} {
		inputs, err := Find([]string{test.path}, Options{Globs: []string{"**/*.go"}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, in := range inputs {
			for tokens, encodeErr := range in.Encoded(runes) {
				if err = encodeErr; err == nil {
					got = append(got, string(tokens))
				}
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %d documents, want %d, or their text differs", test.path, len(got), len(test.want))
		}
		if test.fail == "" && err != nil || test.fail != "" && (err == nil || !strings.Contains(err.Error(), test.fail)) {
			t.Errorf("%s: error %v, want %q", test.path, err, test.fail)
		}
	}
}
