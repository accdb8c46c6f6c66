package data

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/edsrzf/mmap-go"

	"mlkv/internal/ui"
)

// Shard is a packed shard, mapped.
type Shard struct {
	Header
	path string
	data mmap.MMap
}

// OpenShard maps a shard. Its header and size are validated; Check looks at
// every row. Errors carry ui.ExitInput.
func OpenShard(path string) (*Shard, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, ui.Inputf("packed shard: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, ui.Inputf("packed shard: %w", err)
	}
	head := make([]byte, min(info.Size(), headerSize))
	if _, err := file.ReadAt(head, 0); err != nil {
		return nil, ui.Inputf("packed shard %s: %w", path, err)
	}
	h, err := unmarshalHeader(head, info.Size())
	if err != nil {
		return nil, ui.Inputf("packed shard %s: %w", path, err)
	}
	data, err := mmap.Map(file, mmap.RDONLY, 0)
	if err != nil {
		return nil, ui.Inputf("packed shard %s: map: %w", path, err)
	}
	return &Shard{Header: h, path: path, data: data}, nil
}

// Path is the file's name.
func (s *Shard) Path() string { return s.path }

// Close unmaps the shard; rows become invalid.
func (s *Shard) Close() error { return s.data.Unmap() }

// nativeLittle says that the machine stores numbers as the file does.
var nativeLittle = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// full is row i with its unused end, 0 <= i < Rows.
func (s *Shard) full(i int64) []uint16 {
	at := headerSize + i*s.stride()
	b := s.data[at : at+s.stride()]
	if nativeLittle {
		return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b))), s.RowLength+1)
	}
	row := make([]uint16, s.RowLength+1)
	for k := range row {
		row[k] = binary.LittleEndian.Uint16(b[2*k:])
	}
	return row
}

// Row is the used tokens of row i, 0 <= i < Rows, valid until Close.
func (s *Shard) Row(i int64) ([]uint16, error) {
	used := binary.LittleEndian.Uint32(s.data[s.indexAt()+4*i:])
	if used < 1 || int64(used) > int64(s.RowLength+1) {
		return nil, ui.Inputf("packed shard %s: row %d: length: expected 1 to %d, found %d", s.path, i, s.RowLength+1, used)
	}
	return s.full(i)[:used], nil
}

// Check reads everything: the payload's checksum, every row's length, every
// token against the vocabulary and the filling of unused ends.
func (s *Shard) Check() error {
	fail := func(format string, args ...any) error {
		return ui.Inputf("packed shard %s: %w", s.path, fmt.Errorf(format, args...))
	}
	var tokens int64
	for i := range s.Rows {
		row, err := s.Row(i)
		if err != nil {
			return err
		}
		tokens += int64(len(row))
		for k, token := range s.full(i) {
			if k < len(row) && int(token) >= s.VocabSize {
				return fail("row %d, token %d: expected an id below %d, found %d", i, k, s.VocabSize, token)
			}
			if k >= len(row) && token != PadToken {
				return fail("row %d, token %d: expected %d behind the row's end, found %d", i, k, PadToken, token)
			}
		}
	}
	if tokens != s.Tokens {
		return fail("tokens: the header says %d, the rows have %d", s.Tokens, tokens)
	}
	if sum := sha256.Sum256(s.data[headerSize:]); sum != s.Payload {
		return fail("checksum: expected %x, found %x; the file is damaged", s.Payload, sum)
	}
	return nil
}

// CheckTokenizer refuses a shard that another tokenizer made. sum is the
// tokenizer's Checksum.
func (s *Shard) CheckTokenizer(sum string) error {
	want, err := parseSum(sum)
	if err != nil {
		return err
	}
	if want != s.Tokenizer {
		return ui.Inputf("packed shard %s: made with another tokenizer: expected SHA-256 %x, found %x; prepare the text again with this tokenizer", s.path, want, s.Tokenizer)
	}
	return nil
}

// closeAll closes shards and joins their errors.
func closeAll(shards []*Shard) error {
	var err error
	for _, s := range shards {
		err = errors.Join(err, s.Close())
	}
	return err
}
