package data

import (
	"bufio"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
)

// Writer writes one shard. Until Finish it goes by a temporary name.
type Writer struct {
	path   string
	header Header
	file   *os.File
	out    *bufio.Writer
	hash   hash.Hash
	used   []uint32
	bytes  []byte // of one row
}

// tempSuffix ends the name of a shard that is being written.
const tempSuffix = ".part"

// NewWriter begins a shard. Of the header the fields that rows decide are
// filled in by the writer.
func NewWriter(path string, h Header) (*Writer, error) {
	if h.RowLength < 1 || h.RowLength > MaxRowLength {
		return nil, fmt.Errorf("row length: expected 1 to %d, found %d", MaxRowLength, h.RowLength)
	}
	if len(h.Set) > setBytes {
		return nil, fmt.Errorf("set name: expected at most %d bytes, found %q", setBytes, h.Set)
	}
	file, err := os.Create(path + tempSuffix)
	if err != nil {
		return nil, fmt.Errorf("packed shard: %w", err)
	}
	h.Rows, h.Tokens = 0, 0
	w := newWriter(path, h, file)
	if _, err := w.out.Write(make([]byte, headerSize)); err != nil {
		w.Abort()
		return nil, fmt.Errorf("packed shard: %w", err)
	}
	return w, nil
}

func newWriter(path string, h Header, file *os.File) *Writer {
	return &Writer{
		path: path, header: h, file: file, hash: sha256.New(),
		out: bufio.NewWriterSize(file, 1<<20), bytes: make([]byte, h.stride()),
	}
}

// WriteRow appends a row of 1 to RowLength+1 tokens.
func (w *Writer) WriteRow(row []uint16) error {
	if len(row) < 1 || len(row) > w.header.RowLength+1 {
		return fmt.Errorf("packed shard %s: row %d: expected 1 to %d tokens, found %d", w.path, w.header.Rows, w.header.RowLength+1, len(row))
	}
	for i := range w.header.RowLength + 1 {
		token := uint16(PadToken)
		if i < len(row) {
			token = row[i]
		}
		binary.LittleEndian.PutUint16(w.bytes[2*i:], token)
	}
	if err := w.write(w.bytes); err != nil {
		return err
	}
	w.used = append(w.used, uint32(len(row)))
	w.header.Rows++
	w.header.Tokens += int64(len(row))
	return nil
}

func (w *Writer) write(b []byte) error {
	w.hash.Write(b)
	if _, err := w.out.Write(b); err != nil {
		return fmt.Errorf("packed shard: %w", err)
	}
	return nil
}

// TempPath is the name that the shard goes by until Finish.
func (w *Writer) TempPath() string { return w.path + tempSuffix }

// Rows is the number of rows so far.
func (w *Writer) Rows() int64 { return w.header.Rows }

// Finish writes the index and the header, syncs and gives the shard its name.
func (w *Writer) Finish() (Header, error) {
	if w.header.Rows == 0 {
		w.Abort()
		return Header{}, fmt.Errorf("packed shard %s: no rows", w.path)
	}
	if err := w.finish(); err != nil {
		w.Abort()
		return Header{}, err
	}
	return w.header, nil
}

func (w *Writer) finish() error {
	tail := make([]byte, w.header.indexAt()-headerSize-w.header.Rows*w.header.stride(), w.header.fileSize()-headerSize-w.header.Rows*w.header.stride())
	for _, n := range w.used {
		tail = binary.LittleEndian.AppendUint32(tail, n)
	}
	if err := w.write(tail); err != nil {
		return err
	}
	w.header.Payload = [32]byte(w.hash.Sum(nil))
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("packed shard: %w", err)
	}
	if _, err := w.file.WriteAt(w.header.marshal(), 0); err != nil {
		return fmt.Errorf("packed shard: %w", err)
	}
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("packed shard: %w", err)
	}
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("packed shard: %w", err)
	}
	if err := os.Rename(w.path+tempSuffix, w.path); err != nil {
		return fmt.Errorf("packed shard: %w", err)
	}
	return nil
}

// Abort removes what was written. After Finish it must not be called.
func (w *Writer) Abort() {
	w.file.Close()
	os.Remove(w.path + tempSuffix)
}

// Close leaves what was written under its temporary name, for ResumeWriter.
func (w *Writer) Close() error { return w.file.Close() }

// WriterState is how far a shard has been written.
type WriterState struct {
	Rows   int64    `json:"rows"`
	Tokens int64    `json:"tokens"`
	Used   []uint32 `json:"used"`
	Hash   []byte   `json:"hash"`
}

// Save writes everything through to the disk and returns the state from which
// ResumeWriter goes on, also in another process.
func (w *Writer) Save() (WriterState, error) {
	if err := w.out.Flush(); err != nil {
		return WriterState{}, fmt.Errorf("packed shard: %w", err)
	}
	if err := w.file.Sync(); err != nil {
		return WriterState{}, fmt.Errorf("packed shard: %w", err)
	}
	state, err := w.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return WriterState{}, fmt.Errorf("packed shard: %w", err)
	}
	return WriterState{w.header.Rows, w.header.Tokens, w.used[:len(w.used):len(w.used)], state}, nil
}

// ResumeWriter goes on with a shard whose writer was saved; what was written
// after that is cut off, also where the shard was finished since.
func ResumeWriter(path string, h Header, s WriterState) (*Writer, error) {
	if err := os.Rename(path, path+tempSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("packed shard: %w", err)
	}
	file, err := os.OpenFile(path+tempSuffix, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("packed shard: %w", err)
	}
	h.Rows, h.Tokens = s.Rows, s.Tokens
	w := newWriter(path, h, file)
	w.used = s.Used
	end := headerSize + h.Rows*h.stride()
	if err := w.seek(end, s); err != nil {
		file.Close()
		return nil, fmt.Errorf("packed shard %s: %w", path+tempSuffix, err)
	}
	return w, nil
}

func (w *Writer) seek(end int64, s WriterState) error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < end || int64(len(s.Used)) != s.Rows {
		return fmt.Errorf("expected at least %d bytes for %d rows, found %d", end, s.Rows, info.Size())
	}
	if err := w.file.Truncate(end); err != nil {
		return err
	}
	if _, err := w.file.Seek(end, io.SeekStart); err != nil {
		return err
	}
	return w.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.Hash)
}
