package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"
)

// fields reads members of a JSON object and keeps the first error.
type fields struct {
	raw map[string]json.RawMessage
	err error
}

// has reports whether the member is there and not null.
func (f *fields) has(name string) bool {
	v, ok := f.raw[name]
	return ok && string(v) != "null"
}

func (f *fields) fail(name, format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%s: %w", name, fmt.Errorf(format, args...))
	}
}

// value decodes a member that must be there into a T.
func value[T any](f *fields, name, what string) T {
	var v T
	if !f.has(name) {
		f.fail(name, "expected %s, found none", what)
		return v
	}
	if err := json.Unmarshal(f.raw[name], &v); err != nil {
		f.fail(name, "expected %s, found %.40s", what, f.raw[name])
	}
	return v
}

// integer reads a whole number, which Python may have written as 2048 or
// 2048.0.
func (f *fields) integer(name string) int {
	x := value[float64](f, name, "a whole number")
	if f.err == nil && (x != math.Trunc(x) || math.Abs(x) > math.MaxInt32) {
		f.fail(name, "expected a whole number below 2^31, found %.40s", f.raw[name])
	}
	return int(x)
}

func (f *fields) integerOr(name string, otherwise int) int {
	if !f.has(name) {
		return otherwise
	}
	return f.integer(name)
}

func (f *fields) numberOr(name string, otherwise float64) float64 {
	if !f.has(name) {
		return otherwise
	}
	return value[float64](f, name, "a number")
}

func (f *fields) boolOr(name string, otherwise bool) bool {
	if !f.has(name) {
		return otherwise
	}
	return value[bool](f, name, "true or false")
}

func (f *fields) text(name string) string { return value[string](f, name, "a text") }

func (f *fields) textOr(name, otherwise string) string {
	if !f.has(name) {
		return otherwise
	}
	return f.text(name)
}

// token reads a token id or the first of a list of them.
func (f *fields) token(name string, otherwise int) int {
	var ids []float64
	if f.has(name) && json.Unmarshal(f.raw[name], &ids) == nil {
		if len(ids) == 0 {
			return otherwise
		}
		return int(ids[0])
	}
	return f.integerOr(name, otherwise)
}
