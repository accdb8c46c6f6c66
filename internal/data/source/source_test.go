package source

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"mlkv/internal/ui"
)

func write(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// compressZstd writes a frame for every part, with the given window.
func compressZstd(t testing.TB, window int, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, part := range parts {
		w, err := zstd.NewWriter(&b, zstd.WithWindowSize(window))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func compressGzip(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// kept is a document with copies of what the iteration reuses.
type kept struct {
	text, set string
	tokens    []uint16
	more      bool
}

// readAll reads inputs through their blocks. Errors of records are collected,
// damage ends an input and is the last of them.
func readAll(t testing.TB, paths []string, o Options) (documents []kept, errs []error) {
	t.Helper()
	inputs, err := Find(paths, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range inputs {
		d, e := readInput(t, in)
		documents, errs = append(documents, d...), append(errs, e...)
	}
	return documents, errs
}

func readInput(t testing.TB, in Input) (documents []kept, errs []error) {
	t.Helper()
	src, err := in.Open()
	if err != nil {
		return nil, []error{err}
	}
	defer src.Close()
	for {
		block, err := src.Next()
		if err == io.EOF {
			if len(src.Sum()) != 64 {
				t.Errorf("%s: checksum %q at the end", in.Path, src.Sum())
			}
			return documents, errs
		}
		if err != nil {
			return documents, append(errs, err)
		}
		for d, err := range block.Documents() {
			if err != nil {
				errs = append(errs, err)
				continue
			}
			documents = append(documents, kept{strings.Clone(d.Text), d.Set, slices.Clone(d.Tokens), d.More})
		}
		if block.Read() > in.Bytes {
			t.Errorf("%s: read %d of %d bytes", in.Path, block.Read(), in.Bytes)
		}
	}
}

// pileLines makes n lines in the Pile's form with texts of several lengths.
func pileLines(t testing.TB, n int) (lines []byte, want []kept) {
	t.Helper()
	sets := []string{"Pile-CC", "PubMed Central", ""}
	for i := range n {
		text := fmt.Sprintf("document %d \"quoted\" \\ \t naïve 🙂\n%s", i, strings.Repeat("text ", i%997))
		record := map[string]any{"text": text, "meta": map[string]any{"pile_set_name": sets[i%3]}}
		if i%3 == 2 {
			record = map[string]any{"text": text, "other": []any{1.5, nil, true, map[string]any{"text": "no"}}}
		}
		b, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(append(lines, b...), '\n')
		want = append(want, kept{text: text, set: sets[i%3]})
	}
	return lines, want
}

func TestLines(t *testing.T) {
	dir := t.TempDir()
	lines, want := pileLines(t, 1500)
	if len(lines) < 3*blockBytes {
		t.Fatalf("%d bytes do not make several blocks", len(lines))
	}
	half := len(lines) / 2 // within a line
	files := map[string][]byte{
		"plain.jsonl":    lines,
		"noend.jsonl":    bytes.TrimSuffix(lines, newline),
		"crlf.jsonl":     bytes.ReplaceAll(lines, newline, []byte("\r\n\r\n")),
		"one.jsonl.zst":  compressZstd(t, 8<<20, lines),
		"two.jsonl.zst":  compressZstd(t, 1<<20, lines[:half], nil, lines[half:]),
		"long.jsonl.zst": compressZstd(t, 256<<20, lines),
		"a.jsonl.gz":     compressGzip(t, lines),
		"two.jsonl.gz":   append(compressGzip(t, lines[:half]), compressGzip(t, lines[half:])...),
	}
	for name, data := range files {
		got, errs := readAll(t, []string{write(t, filepath.Join(dir, name), data)}, Options{})
		if len(errs) > 0 {
			t.Errorf("%s: %v", name, errs[0])
		}
		if !slices.EqualFunc(got, want, func(a, b kept) bool { return a.text == b.text && a.set == b.set }) {
			t.Errorf("%s: %d documents differ from the %d written", name, len(got), len(want))
		}
	}
}

func TestBadLines(t *testing.T) {
	for _, c := range []struct{ line, message string }{
		{`{"text": "a"`, "the line ends too early"},
		{`{"text": "a}`, "the line ends too early"},
		{`{"text": "a\q"}`, "expected an escape"},
		{`{"text": "a\u12g4"}`, "four hexadecimal digits"},
		{"{\"text\": \"a\tb\"}", "control character"},
		{"{\"text\": \"a\xffb\"}", "invalid UTF-8"},
		{"{\"text\": \"a\", \"b\xc3\": 1}", "invalid UTF-8"},
		{`{"title": "a"}`, `field "text" is missing`},
		{`{"text": null}`, `field "text": expected a string, found null`},
		{`{"text": 3}`, "found a number"},
		{`{"text": ["a"]}`, "found an array"},
		{`{"text": "a"} x`, "expected the end of the line"},
		{`{"text": "a", }`, "expected a key"},
		{`{"text": "a", "n": 01}`, "expected , or }"},
		{`{"text": "a", "n": -}`, "a digit"},
		{`{"text": "a", "n": tru}`, "expected true"},
		{`["text"]`, "expected {"},
		{`{"text": "a", "d": ` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`, "nested deeper"},
	} {
		path := write(t, filepath.Join(t.TempDir(), "a.jsonl"), []byte(`{"text": "first"}`+"\n\n"+c.line+"\n"+`{"text": "last"}`))
		got, errs := readAll(t, []string{path}, Options{})
		if len(got) != 2 || got[1].text != "last" {
			t.Errorf("%s: the records around it: %v", c.line, got)
		}
		var bad *BadRecord
		if len(errs) != 1 || !errors.As(errs[0], &bad) || bad.Number != 3 || !strings.Contains(errs[0].Error(), path+":3: ") || !strings.Contains(errs[0].Error(), c.message) {
			t.Errorf("%s: errors %v, want one at line 3 that says %q", c.line, errs, c.message)
		}
	}
}

func TestTooLongLine(t *testing.T) {
	long := append([]byte(`{"text": "`), bytes.Repeat([]byte("x"), maxRecord)...)
	path := write(t, filepath.Join(t.TempDir(), "a.jsonl"), append(append([]byte("{\"text\": \"a\"}\n"), long...), "\"}\n{\"text\": \"b\"}\n"...))
	got, errs := readAll(t, []string{path}, Options{})
	if len(got) != 2 || len(errs) != 1 || !strings.Contains(errs[0].Error(), path+":2: ") {
		t.Errorf("%d documents, errors %v; want 2 and an error at line 2", len(got), errs)
	}
}

func TestTextKey(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "a.jsonl"), []byte(`{"content": "c", "text": "t"}`))
	if got, errs := readAll(t, []string{path}, Options{TextKey: "content"}); len(errs) > 0 || got[0].text != "c" {
		t.Errorf("got %v, %v", got, errs)
	}
}

// TestDamage cuts and changes compressed files.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	lines, _ := pileLines(t, 1500)
	zst, gz := compressZstd(t, 1<<20, lines), compressGzip(t, lines)
	flipped := slices.Clone(gz)
	flipped[len(flipped)-6] ^= 1 // of the checksum
	for name, data := range map[string][]byte{
		"cut.jsonl.zst": zst[:len(zst)*2/3], "cut4.jsonl.zst": zst[:len(zst)-4], "empty.jsonl.gz": {}, "no.jsonl.zst": []byte("{\"text\": \"a\"}\n"),
		"cut.jsonl.gz": gz[:len(gz)*2/3], "cut4.jsonl.gz": gz[:len(gz)-4], "flip.jsonl.gz": flipped, "cut.txt.gz": gz[:len(gz)/2],
	} {
		path := write(t, filepath.Join(dir, name), data)
		_, errs := readAll(t, []string{path}, Options{})
		var damage *Damage
		if len(errs) != 1 || !errors.As(errs[0], &damage) || !strings.HasPrefix(errs[0].Error(), path) {
			t.Errorf("%s: errors %v, want damage of the file", name, errs)
		}
	}
}

// FuzzRecord compares the parser with encoding/json.
func FuzzRecord(f *testing.F) {
	for _, line := range []string{
		`{"text": "a\u00e9\ud83d\ude42\ud83dx\n", "meta": {"pile_set_name": "Pile-CC", "x": [1, -2.5e+3]}}`,
		`{"text":"a","text":"b","meta":null}`, ` { } `, `{"a":{"b":[[],{},""]},"text":"\/"}`, "{\"text\":\"\xff\"}", `{"meta":{"pile_set_name":"a"},"meta":{},"text":""}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.IndexByte(line, '\n') >= 0 || bytes.Count(line, []byte("[")) > 900 || bytes.Count(line, []byte("{")) > 90 {
			return
		}
		p := parser{key: "text"}
		r, err := p.parse(line)
		var want map[string]json.RawMessage
		var text string
		wanted := json.Unmarshal(line, &want) == nil && want != nil && utf8.Valid(line) &&
			len(want["text"]) > 0 && want["text"][0] == '"' && json.Unmarshal(want["text"], &text) == nil
		if !wanted && err == nil && bytes.Count(line, []byte(`text`)) < 2 || wanted && err != nil && !bytes.Contains(line, []byte(`"text`)) {
			t.Fatalf("%q: error %v, encoding/json: %v", line, err, wanted)
		}
		if wanted && err == nil && string(r.text) != text {
			t.Fatalf("%q: text %q, want %q", line, r.text, text)
		}
	})
}

func TestTextParts(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("Some words, naïve  and\n\n\tspaced 日本語 out. ", 60000)
	short := "one text"
	for name, text := range map[string]string{"a.txt": short, "empty.txt": "", "b.txt": long, "solid.txt": strings.Repeat("é", 2*blockBytes)} {
		got, errs := readAll(t, []string{write(t, filepath.Join(dir, name), []byte(text))}, Options{})
		joined := ""
		for i, d := range got {
			joined += d.text
			if d.more != (i < len(got)-1) {
				t.Errorf("%s: part %d of %d: more is %v", name, i, len(got), d.more)
			}
			if i > 0 && name == "b.txt" && !isSpace(d.text[0]) {
				t.Errorf("%s: part %d begins with %q", name, i, d.text[:10])
			}
		}
		if joined != text || len(errs) > 0 {
			t.Errorf("%s: parts do not make up the text: %v", name, errs)
		}
	}
	bad := []byte(long)
	bad[2*blockBytes] = 0xFF
	got, errs := readAll(t, []string{write(t, filepath.Join(dir, "bad.txt"), bad)}, Options{})
	want := bytes.Count(bad[:2*blockBytes], newline) + 1
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), fmt.Sprintf("bad.txt:%d: invalid UTF-8", want)) || got[len(got)-1].more {
		t.Errorf("errors %v, want one at line %d", errs, want)
	}
}

func TestTree(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b/x.go": "package b", "a.go": "package a", "b/a_test.go": "package test", "b/c/d.go": "package d", "b/bin.go": "\x00", "b/latin.go": "\xe9",
		"c.md": "text", ".git/x.go": "no", "b/vendor/v.go": "no",
	} {
		write(t, filepath.Join(dir, name), []byte(text))
	}
	link := filepath.Join(t.TempDir(), "src")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{dir, link} {
		got, errs := readAll(t, []string{root}, Options{Globs: []string{"**/*.go", "!**/*_test.go", "!**/vendor/**"}})
		var texts []string
		for _, d := range got {
			texts = append(texts, d.text)
		}
		if want := []string{"package a", "package d", "package b"}; !slices.Equal(texts, want) {
			t.Errorf("texts %q, want %q", texts, want)
		}
		var skipped *Skipped
		if len(errs) != 2 || !errors.As(errs[0], &skipped) || !errors.As(errs[1], &skipped) {
			t.Errorf("errors %v, want two skipped files", errs)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*.go", "a.go", true}, {"*.go", "b/a.go", false}, {"**/*.go", "a.go", true}, {"**/*.go", "b/c/a.go", true},
		{"b/**", "b/c/a.go", true}, {"b/**", "c/a.go", false}, {"**/c/*", "b/c/a", true}, {"**/c/*", "b/c/d/a", false}, {"b/**/a.go", "b/a.go", true},
	} {
		m, err := newMatcher([]string{c.pattern})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.match(c.name); got != c.want {
			t.Errorf("%s, %s: %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
	if _, err := newMatcher([]string{"[a"}); err == nil {
		t.Error("a broken pattern was accepted")
	}
}

func TestFindErrors(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "a.xyz"), []byte("a"))
	for _, c := range []struct {
		paths []string
		o     Options
		code  int
		word  string
	}{
		{nil, Options{}, ui.ExitUsage, "no file"},
		{[]string{file}, Options{}, ui.ExitInput, ".jsonl.zst"},
		{[]string{dir}, Options{}, ui.ExitInput, "--glob"},
		{[]string{dir}, Options{Globs: []string{"*.go"}}, ui.ExitInput, "*.go"},
		{[]string{filepath.Join(dir, "none")}, Options{}, ui.ExitInput, "none"},
		{[]string{dir}, Options{Globs: []string{"["}}, ui.ExitUsage, "pattern"},
	} {
		if _, err := Find(c.paths, c.o); ui.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%v %+v: error %v, want exit code %d and %q", c.paths, c.o, err, c.code, c.word)
		}
	}
}
