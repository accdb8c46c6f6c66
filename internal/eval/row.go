package eval

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"unicode/utf8"

	"mlkv/internal/ui"
)

// row is one line of a JSON-lines file, or an object within it. The first
// field that is not as expected is kept, so that a reader may ask for all
// fields and check once.
type row struct {
	file   string
	line   int
	path   string // of the object within the line, "question."
	fields map[string]json.RawMessage
	err    *error
}

// readRows reads the objects of a JSON-lines file and hands each to use. Lines
// of white space are skipped. Errors name file and line.
func readRows(file string, use func(r row) error) error {
	f, err := os.Open(file)
	if err != nil {
		return ui.Inputf("task file: %w", err)
	}
	defer f.Close()
	return scanRows(file, f, use)
}

func scanRows(file string, in io.Reader, use func(r row) error) error {
	lines := bufio.NewReader(in)
	found := false
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return ui.Inputf("%s:%d: %w", file, n, err)
		}
		last := err != nil
		if line = bytes.TrimSpace(line); len(line) > 0 {
			found = true
			r, err := parseRow(file, n, line)
			if err != nil {
				return err
			}
			if err := use(r); err != nil {
				return err
			}
		}
		if last {
			break
		}
	}
	if !found {
		return ui.Inputf("%s: expected one JSON object a line, found an empty file", file)
	}
	return nil
}

func parseRow(file string, n int, line []byte) (row, error) {
	r := row{file: file, line: n, err: new(error)}
	if !utf8.Valid(line) {
		return r, ui.Inputf("%s:%d: expected UTF-8, found other bytes", file, n)
	}
	if line[0] != '{' {
		return r, ui.Inputf("%s:%d: expected a JSON object, found %.20q", file, n, line)
	}
	if err := json.Unmarshal(line, &r.fields); err != nil {
		return r, ui.Inputf("%s:%d: expected a JSON object: %w", file, n, err)
	}
	return r, nil
}

// bad keeps the first error of the row.
func (r row) bad(field, format string, args ...any) {
	if *r.err == nil {
		args = append([]any{r.file, r.line, r.path + field}, args...)
		*r.err = ui.Inputf("%s:%d: field %q: "+format, args...)
	}
}

// get decodes a field into v; want says what is expected there.
func (r row) get(field, want string, v any) bool {
	raw, ok := r.fields[field]
	if !ok {
		r.bad(field, "expected %s, found no such field", want)
		return false
	}
	if string(raw) == "null" || json.Unmarshal(raw, v) != nil {
		r.bad(field, "expected %s, found %.40s", want, raw)
		return false
	}
	return true
}

// text is the value of a field that holds a string.
func (r row) text(field string) string {
	var s string
	r.get(field, "a string", &s)
	return s
}

// filled is text that must not be empty.
func (r row) filled(field string) string {
	s := r.text(field)
	if s == "" {
		r.bad(field, "expected text, found an empty string")
	}
	return s
}

// object is the object in a field.
func (r row) object(field string) row {
	sub := row{file: r.file, line: r.line, path: r.path + field + ".", err: r.err}
	r.get(field, "an object", &sub.fields)
	return sub
}

// objects are the objects of the list in a field.
func (r row) objects(field string) []row {
	var list []map[string]json.RawMessage
	r.get(field, "a list of objects", &list)
	out := make([]row, len(list))
	for i, fields := range list {
		out[i] = row{file: r.file, line: r.line, path: r.path + field + ".", fields: fields, err: r.err}
	}
	return out
}
