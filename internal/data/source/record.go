package source

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// record is what is taken from a line of JSON.
type record struct {
	text    []byte
	set     []byte
	hasText bool
}

// parser reads one JSON object a line: the text under a key and
// meta.pile_set_name. It accepts what RFC 8259 does, but for nesting beyond
// maxDepth; of equal keys the last counts.
type parser struct {
	key  string // of the text
	text []byte // reused between records
	set  []byte
	skip []byte // strings that are read over

	data []byte
	at   int
}

const maxDepth = 1000

var (
	errInvalidUTF8 = errors.New("invalid UTF-8")
	errTruncated   = errors.New("broken JSON: the line ends too early")
)

func (p *parser) broken(expected string) error {
	if p.at >= len(p.data) {
		return errTruncated
	}
	return fmt.Errorf("broken JSON at byte %d: expected %s, found %q", p.at+1, expected, p.data[p.at])
}

// parse reads a line. The slices of the record are valid until the next parse.
func (p *parser) parse(line []byte) (record, error) {
	p.data, p.at = line, 0
	var r record
	p.space()
	if p.peek() != '{' {
		return r, p.broken("{")
	}
	err := p.object(0, func(key []byte) error {
		switch {
		case string(key) == p.key:
			if p.peek() != '"' {
				return fmt.Errorf("field %q: expected a string, found %s", p.key, p.kind())
			}
			var err error
			p.text, err = p.string(p.text[:0])
			r.text, r.hasText = p.text, true
			return err
		case string(key) == "meta" && p.peek() == '{':
			r.set = nil
			return p.object(1, func(key []byte) error {
				if string(key) != "pile_set_name" || p.peek() != '"' {
					return p.value(2)
				}
				var err error
				p.set, err = p.string(p.set[:0])
				r.set = p.set
				return err
			})
		}
		return p.value(1)
	})
	if err != nil {
		return r, err
	}
	p.space()
	if p.at < len(p.data) {
		return r, p.broken("the end of the line")
	}
	if !r.hasText {
		return r, fmt.Errorf("field %q is missing", p.key)
	}
	return r, nil
}

// kind names the value that comes next.
func (p *parser) kind() string {
	switch c := p.peek(); {
	case c == '{':
		return "an object"
	case c == '[':
		return "an array"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	}
	return "a number"
}

// peek is the next byte, 0 at the end.
func (p *parser) peek() byte {
	if p.at < len(p.data) {
		return p.data[p.at]
	}
	return 0
}

func (p *parser) space() {
	for p.at < len(p.data) {
		switch p.data[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// object reads an object and calls field at each value, which it must read.
func (p *parser) object(depth int, field func(key []byte) error) error {
	p.at++
	p.space()
	if p.peek() == '}' {
		p.at++
		return nil
	}
	for {
		if p.peek() != '"' {
			return p.broken("a key")
		}
		key, err := p.string(p.skip[:0])
		if err != nil {
			return err
		}
		p.skip = key[:0]
		p.space()
		if p.peek() != ':' {
			return p.broken(":")
		}
		p.at++
		p.space()
		if err := field(key); err != nil {
			return err
		}
		if done, err := p.next('}'); done || err != nil {
			return err
		}
	}
}

// next reads a comma, or the bracket that closes an object or array.
func (p *parser) next(closing byte) (done bool, err error) {
	p.space()
	switch p.peek() {
	case ',':
		p.at++
		p.space()
		return false, nil
	case closing:
		p.at++
		return true, nil
	}
	return false, p.broken(", or " + string(closing))
}

// value reads over a value.
func (p *parser) value(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch c := p.peek(); {
	case c == '{':
		return p.object(depth, func([]byte) error { return p.value(depth + 1) })
	case c == '[':
		return p.array(depth)
	case c == '"':
		s, err := p.string(p.skip[:0])
		p.skip = s[:0]
		return err
	case c == 't':
		return p.word("true")
	case c == 'f':
		return p.word("false")
	case c == 'n':
		return p.word("null")
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	return p.broken("a value")
}

func (p *parser) array(depth int) error {
	p.at++
	p.space()
	if p.peek() == ']' {
		p.at++
		return nil
	}
	for {
		if err := p.value(depth + 1); err != nil {
			return err
		}
		if done, err := p.next(']'); done || err != nil {
			return err
		}
	}
}

func (p *parser) word(word string) error {
	for i := range len(word) {
		if p.peek() != word[i] {
			return p.broken(word)
		}
		p.at++
	}
	return nil
}

func (p *parser) number() error {
	if p.peek() == '-' {
		p.at++
	}
	if p.peek() == '0' {
		p.at++
	} else if err := p.digits(); err != nil {
		return err
	}
	if p.peek() == '.' {
		p.at++
		if err := p.digits(); err != nil {
			return err
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		return p.digits()
	}
	return nil
}

func (p *parser) digits() error {
	from := p.at
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.at++
	}
	if p.at == from {
		return p.broken("a digit")
	}
	return nil
}

// plain marks the bytes that stand for themselves in a string.
var plain = func() (table [256]bool) {
	for b := range table {
		table[b] = b >= 0x20 && b != '"' && b != '\\'
	}
	return table
}()

// string reads a string and appends its value to dst.
func (p *parser) string(dst []byte) ([]byte, error) {
	data, i := p.data, p.at+1
	for {
		from := i
		for i < len(data) && plain[data[i]] {
			i++
		}
		if !utf8.Valid(data[from:i]) {
			return dst, errInvalidUTF8
		}
		dst = append(dst, data[from:i]...)
		p.at = i
		if i >= len(data) {
			return dst, errTruncated
		}
		switch data[i] {
		case '"':
			p.at = i + 1
			return dst, nil
		case '\\':
			var err error
			if dst, err = p.escape(dst); err != nil {
				return dst, err
			}
			i = p.at
		default:
			return dst, p.broken("no control character in a string")
		}
	}
}

// escape reads what begins with a backslash. A surrogate without its other half
// becomes U+FFFD.
func (p *parser) escape(dst []byte) ([]byte, error) {
	p.at++
	c := p.peek()
	p.at++
	switch c {
	case '"', '\\', '/':
		return append(dst, c), nil
	case 'b':
		return append(dst, '\b'), nil
	case 'f':
		return append(dst, '\f'), nil
	case 'n':
		return append(dst, '\n'), nil
	case 'r':
		return append(dst, '\r'), nil
	case 't':
		return append(dst, '\t'), nil
	case 'u':
		r, err := p.hex4()
		if err != nil {
			return dst, err
		}
		if r >= 0xD800 && r < 0xDC00 && p.at+1 < len(p.data) && p.data[p.at] == '\\' && p.data[p.at+1] == 'u' {
			back := p.at
			p.at += 2
			low, err := p.hex4()
			if err != nil {
				return dst, err
			}
			if low >= 0xDC00 && low < 0xE000 {
				r = (r-0xD800)<<10 + (low - 0xDC00) + 0x10000
			} else {
				p.at = back
			}
		}
		return utf8.AppendRune(dst, r), nil
	}
	p.at--
	return dst, p.broken("an escape")
}

func (p *parser) hex4() (rune, error) {
	var r rune
	for range 4 {
		c := p.peek()
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, p.broken("four hexadecimal digits")
		}
		r = r<<4 | rune(c)
		p.at++
	}
	return r, nil
}
