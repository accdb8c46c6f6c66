package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"unicode/utf8"
	"unsafe"
)

// text reads one text file (.txt, .txt.zst, .txt.gz) as one document, in parts
// where it is long. Parts end before white space that follows other text, where
// the tokens of the parts are those of the whole: no word and no normal form
// reaches over that place.
type text struct {
	*input
	line    int64  // number of newlines before the next part
	rest    []byte // what the last part left over
	started bool
	end     bool
}

func openText(path string, _ Options) (Source, error) {
	in, err := openInput(path)
	if err != nil {
		return nil, err
	}
	return &text{input: in}, nil
}

func (t *text) Next() (Block, error) {
	if t.end {
		return nil, io.EOF
	}
	data := make([]byte, len(t.rest), max(blockBytes, min(2*len(t.rest), maxRecord)))
	copy(data, t.rest)
	for {
		n, err := fill(t.data, data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			t.end = true
			return t.part(data), nil
		}
		if err != nil {
			return nil, &Damage{t.path, fmt.Errorf("after line %d: %w", t.line+int64(bytes.Count(data, newline)), err)}
		}
		cut := partEnd(data)
		if cut == 0 && len(data) >= maxRecord {
			cut = len(data)
			for !utf8.RuneStart(data[cut-1]) && cut > len(data)-utf8.UTFMax {
				cut--
			}
			cut--
		}
		if cut > 0 {
			t.rest = data[cut:]
			return t.part(data[:cut]), nil
		}
		data = append(make([]byte, 0, min(2*cap(data), maxRecord)), data...)
	}
}

// partEnd returns the last place in data before an ASCII white space that
// follows another ASCII character, 0 where there is none.
func partEnd(data []byte) int {
	for i := len(data) - 1; i > 0; i-- {
		if isSpace(data[i]) && !isSpace(data[i-1]) && data[i-1] < utf8.RuneSelf {
			return i
		}
	}
	return 0
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func (t *text) part(data []byte) Block {
	b := &textBlock{file: t.path, data: data, line: t.line + 1, read: t.read, first: !t.started, last: t.end}
	t.started = true
	t.line += int64(bytes.Count(data, newline))
	return b
}

// textBlock is a part of a text file.
type textBlock struct {
	file        string
	data        []byte
	line        int64
	read        int64
	first, last bool
}

func (b *textBlock) Size() int64 { return int64(len(b.data)) }
func (b *textBlock) Read() int64 { return b.read }

func (b *textBlock) Documents() iter.Seq2[Document, error] {
	key := ""
	if !b.first || !b.last {
		key = b.file
	}
	return func(yield func(Document, error) bool) {
		if at, ok := invalidUTF8(b.data); ok {
			line := b.line + int64(bytes.Count(b.data[:at], newline))
			if !yield(Document{}, &BadRecord{File: b.file, Unit: "line", Number: line, Err: errInvalidUTF8}) || key == "" {
				return
			}
			yield(Document{More: !b.last, Key: key}, nil)
			return
		}
		yield(Document{Text: asString(b.data), More: !b.last, Key: key}, nil)
	}
}

// invalidUTF8 returns the first place in data that is not UTF-8.
func invalidUTF8(data []byte) (at int, found bool) {
	if utf8.Valid(data) {
		return 0, false
	}
	for at < len(data) {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	return at, true
}

// asString is data as a string without a copy.
func asString(data []byte) string { return unsafe.String(unsafe.SliceData(data), len(data)) }

// errBinary is why a file of a tree is passed over.
var errBinary = errors.New("not a text: it holds a NUL byte or is not UTF-8")
