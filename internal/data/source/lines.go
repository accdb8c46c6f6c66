package source

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"unsafe"
)

// lines reads JSON lines (.jsonl, .jsonl.zst, .jsonl.gz). A block is a stretch
// of whole lines.
type lines struct {
	*input
	key  string
	line int64  // number of lines before the next block
	rest []byte // the line that the last block broke off
	end  bool
}

func openLines(path string, o Options) (Source, error) {
	in, err := openInput(path)
	if err != nil {
		return nil, err
	}
	return &lines{input: in, key: o.TextKey}, nil
}

func (l *lines) Next() (Block, error) {
	if l.end {
		return nil, io.EOF
	}
	data := make([]byte, len(l.rest), max(blockBytes, min(2*len(l.rest), maxRecord)))
	copy(data, l.rest)
	for {
		n, err := fill(l.data, data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			l.end, l.rest = true, nil
			if len(data) == 0 {
				return nil, io.EOF
			}
			return l.block(data), nil
		}
		if err != nil {
			return nil, &Damage{l.path, fmt.Errorf("after line %d: %w", l.line+int64(bytes.Count(data, newline)), err)}
		}
		if cut := bytes.LastIndexByte(data, '\n'); cut >= 0 {
			l.rest = data[cut+1:]
			return l.block(data[:cut+1]), nil
		}
		if len(data) >= maxRecord {
			return l.tooLong()
		}
		data = append(make([]byte, 0, min(2*cap(data), maxRecord)), data...)
	}
}

var newline = []byte{'\n'}

func (l *lines) block(data []byte) Block {
	b := &lineBlock{file: l.path, key: l.key, data: data, first: l.line + 1, read: l.read}
	l.line += int64(bytes.Count(data, newline))
	return b
}

// tooLong reads over the rest of a line that is longer than maxRecord.
func (l *lines) tooLong() (Block, error) {
	l.line++
	b := &lineBlock{file: l.path, first: l.line, read: l.read, tooLong: true}
	data := make([]byte, blockBytes)
	for {
		n, err := l.data.Read(data)
		if cut := bytes.IndexByte(data[:n], '\n'); cut >= 0 {
			l.rest = data[cut+1 : n]
			return b, nil
		}
		if err == io.EOF {
			l.end = true
			return b, nil
		}
		if err != nil {
			return nil, &Damage{l.path, fmt.Errorf("in line %d: %w", l.line, err)}
		}
	}
}

// lineBlock is a stretch of whole lines, or one line that is too long.
type lineBlock struct {
	file    string
	key     string
	data    []byte
	first   int64
	read    int64
	tooLong bool
}

func (b *lineBlock) Size() int64 { return int64(len(b.data)) }
func (b *lineBlock) Read() int64 { return b.read }

func (b *lineBlock) Documents() iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		bad := func(number int64, err error) error {
			return &BadRecord{File: b.file, Unit: "line", Number: number, Err: err}
		}
		if b.tooLong {
			yield(Document{}, bad(b.first, fmt.Errorf("expected at most %d bytes in a line", maxRecord)))
			return
		}
		p := parser{key: b.key}
		sets := map[string]string{}
		number := b.first
		for line := range bytes.Lines(b.data) {
			if len(bytes.TrimSpace(line)) > 0 {
				r, err := p.parse(bytes.TrimSuffix(line, newline))
				var doc Document
				if err != nil {
					err = bad(number, err)
				} else {
					doc = Document{Text: unsafe.String(unsafe.SliceData(r.text), len(r.text)), Set: intern(sets, r.set)}
				}
				if !yield(doc, err) {
					return
				}
			}
			number++
		}
	}
}

// intern returns one string for equal names.
func intern(names map[string]string, name []byte) string {
	s, ok := names[string(name)]
	if !ok {
		s = string(name)
		names[s] = s
	}
	return s
}
