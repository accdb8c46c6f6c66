package eval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Object is a JSON object that keeps the order of its fields, as Python's
// dictionaries do.
type Object []Field

// Field is one entry of an Object.
type Field struct {
	Name  string
	Value any
}

// MarshalJSON writes the object in Python's form.
func (o Object) MarshalJSON() ([]byte, error) { return pyJSON{}.append(nil, o, 0) }

// pyJSON writes values as Python's json.dumps does, so that files and hashes
// equal those of lm-evaluation-harness.
type pyJSON struct {
	Indent int  // spaces a level; 0 writes one line
	ASCII  bool // ensure_ascii
}

// dump writes one value: nil, bool, string, int, int64, float64, []any,
// []string, Object, or anything that encoding/json can write.
func (p pyJSON) dump(v any) ([]byte, error) { return p.append(nil, v, 0) }

func (p pyJSON) append(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		return p.appendString(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		return append(dst, pyFloat(v)...), nil
	case []string:
		return p.appendList(dst, '[', ']', len(v), depth, func(dst []byte, i int) ([]byte, error) {
			return p.appendString(dst, v[i]), nil
		})
	case []any:
		return p.appendList(dst, '[', ']', len(v), depth, func(dst []byte, i int) ([]byte, error) {
			return p.append(dst, v[i], depth+1)
		})
	case Object:
		return p.appendList(dst, '{', '}', len(v), depth, func(dst []byte, i int) ([]byte, error) {
			dst = append(p.appendString(dst, v[i].Name), ": "...)
			return p.append(dst, v[i].Value, depth+1)
		})
	}
	return p.appendOther(dst, v, depth)
}

// appendList writes n items between brackets.
func (p pyJSON) appendList(dst []byte, left, right byte, n, depth int, item func([]byte, int) ([]byte, error)) ([]byte, error) {
	dst = append(dst, left)
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
			if p.Indent == 0 {
				dst = append(dst, ' ')
			}
		}
		dst = p.appendBreak(dst, depth+1)
		var err error
		if dst, err = item(dst, i); err != nil {
			return nil, err
		}
	}
	if n > 0 {
		dst = p.appendBreak(dst, depth)
	}
	return append(dst, right), nil
}

func (p pyJSON) appendBreak(dst []byte, depth int) []byte {
	if p.Indent == 0 {
		return dst
	}
	dst = append(dst, '\n')
	return append(dst, strings.Repeat(" ", p.Indent*depth)...)
}

// appendOther writes what the other rooms' types say of themselves.
func (p pyJSON) appendOther(dst []byte, v any, depth int) ([]byte, error) {
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write %T as JSON: %w", v, err)
	}
	if p.Indent == 0 {
		return append(dst, bytes.TrimSpace(raw.Bytes())...), nil
	}
	var out bytes.Buffer
	indent := strings.Repeat(" ", p.Indent)
	if err := json.Indent(&out, bytes.TrimSpace(raw.Bytes()), strings.Repeat(indent, depth), indent); err != nil {
		return nil, fmt.Errorf("write %T as JSON: %w", v, err)
	}
	return append(dst, out.Bytes()...), nil
}

func (p pyJSON) appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		case r == '\t':
			dst = append(dst, `\t`...)
		case r == '\b':
			dst = append(dst, `\b`...)
		case r == '\f':
			dst = append(dst, `\f`...)
		case r < ' ', p.ASCII && r >= 0x7f && r < 0x10000:
			dst = fmt.Appendf(dst, `\u%04x`, r)
		case p.ASCII && r >= 0x10000:
			high, low := utf16.EncodeRune(r)
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, high, low)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// pyFloat is Python's repr of a float.
func pyFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// pyInt and pyBool are Python's str of an integer and a truth value.
func pyInt(i int) string { return strconv.Itoa(i) }

func pyBool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}
