package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"path/filepath"
	"unicode/utf8"
)

// Skipped is a file of a source tree that is no text or cannot be read; it is
// passed over.
type Skipped struct {
	File string
	Err  error
}

func (e *Skipped) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }

func (e *Skipped) Unwrap() error { return e.Err }

// tree reads a list of text files, each one document, in the given order. Its
// checksum is over the names, lengths and contents of those that could be read.
type tree struct {
	root  string
	files []string // slash-separated, relative to root
	next  int
	read  int64
	hash  hash.Hash
}

func openTree(root string, files []string) Source {
	return &tree{root: root, files: files, hash: sha256.New()}
}

func (t *tree) Next() (Block, error) {
	if t.next >= len(t.files) {
		return nil, io.EOF
	}
	b := &treeBlock{}
	for t.next < len(t.files) && b.size < blockBytes {
		name := t.files[t.next]
		path := filepath.Join(t.root, filepath.FromSlash(name))
		t.next++
		data, err := readWhole(path)
		if err == nil {
			fmt.Fprintf(t.hash, "%s\x00%d\x00", name, len(data))
			t.hash.Write(data)
		}
		b.files = append(b.files, treeFile{path, data, err})
		b.size += int64(len(data))
		t.read += int64(len(data))
	}
	b.read = t.read
	return b, nil
}

// readWhole reads a file that is not longer than a record may be.
func readWhole(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxRecord {
		return nil, fmt.Errorf("expected at most %d bytes, found %d", maxRecord, info.Size())
	}
	return os.ReadFile(path)
}

func (t *tree) Sum() string {
	if t.next < len(t.files) {
		return ""
	}
	return hex.EncodeToString(t.hash.Sum(nil))
}

func (t *tree) Close() error { return nil }

type treeFile struct {
	path string
	data []byte
	err  error
}

// treeBlock is some files of a tree.
type treeBlock struct {
	files []treeFile
	size  int64
	read  int64
}

func (b *treeBlock) Size() int64 { return b.size }
func (b *treeBlock) Read() int64 { return b.read }

func (b *treeBlock) Documents() iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		for _, f := range b.files {
			err := f.err
			if err == nil && (bytes.IndexByte(f.data, 0) >= 0 || !utf8.Valid(f.data)) {
				err = errBinary
			}
			doc := Document{Text: asString(f.data)}
			if err != nil {
				doc, err = Document{}, &Skipped{f.path, err}
			}
			if !yield(doc, err) {
				return
			}
		}
	}
}
