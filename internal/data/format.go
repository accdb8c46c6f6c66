// Package data holds token rows on disk and hands them to the training loop: packing
// of documents into rows, packed shards, and the loader with its exact position.
//
// A row has at most RowLength+1 tokens, so that RowLength are predicted. A shard
// is a file of rows of equal stride that is mapped, never read whole. Package
// source reads documents and package prepare makes folders of shards from them.
package data

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"
)

// The layout of a shard, all little-endian:
//
//	header   256 bytes, see Header.marshal
//	rows     Rows x (RowLength+1) uint16; what a row does not use holds PadToken
//	padding  to a multiple of 4 bytes
//	index    Rows x uint32, the number of tokens that each row uses, 1 to RowLength+1
const (
	magic      = "MLKVROWS"
	version    = 1
	headerSize = 256

	// ShardSuffix ends the name of a shard.
	ShardSuffix = ".rows"
	// PadToken fills the unused end of a row, as the MLKV authors' id 1 does.
	PadToken = 1
	// MaxRowLength is the longest row that the format holds.
	MaxRowLength = 1 << 20

	setBytes = 64
)

// Packing is how documents become rows.
type Packing uint32

// Packings.
const (
	// Stream joins documents by the end-of-text token and cuts the stream every
	// RowLength tokens; a row repeats the last token of the row before.
	Stream Packing = 1
	// Authors keeps documents whole, as the MLKV authors' pack_data.py does.
	Authors Packing = 2
	// Rows takes each sequence of a tokenized source as a row.
	Rows Packing = 3
)

var packingNames = map[Packing]string{Stream: "stream", Authors: "authors", Rows: "rows"}

func (p Packing) String() string {
	if name, ok := packingNames[p]; ok {
		return name
	}
	return fmt.Sprintf("packing(%d)", uint32(p))
}

// ParsePacking is the inverse of String.
func ParsePacking(name string) (Packing, error) {
	for p, n := range packingNames {
		if n == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("packing: expected stream, authors or rows, found %q", name)
}

// MarshalText writes the packing's name.
func (p Packing) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a packing's name.
func (p *Packing) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePacking(string(text))
	return err
}

// Header describes a shard.
type Header struct {
	RowLength int     // tokens that a full row predicts
	Packing   Packing // how documents became rows
	Rows      int64
	Tokens    int64 // used tokens of all rows, those repeated between rows included
	VocabSize int   // every token is below it
	// Tokenizer and Payload are SHA-256, of tokenizer.json and of everything
	// behind the header.
	Tokenizer, Payload [32]byte
	Set                string // the part of the Pile that all rows are from, else empty
}

func (h *Header) stride() int64 { return int64(h.RowLength+1) * 2 }

// indexAt is where the index begins.
func (h *Header) indexAt() int64 { return (headerSize + h.Rows*h.stride() + 3) &^ 3 }

// fileSize is the size of the whole shard.
func (h *Header) fileSize() int64 { return h.indexAt() + 4*h.Rows }

// SetTokenizer stores a tokenizer's Checksum.
func (h *Header) SetTokenizer(sum string) (err error) {
	h.Tokenizer, err = parseSum(sum)
	return err
}

// marshal writes the header's fields at fixed places; the last four bytes are
// the CRC-32 of those before.
func (h *Header) marshal() []byte {
	b := make([]byte, headerSize)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], headerSize)
	le.PutUint32(b[16:], uint32(h.RowLength))
	le.PutUint32(b[20:], uint32(h.Packing))
	le.PutUint64(b[24:], uint64(h.Rows))
	le.PutUint64(b[32:], uint64(h.Tokens))
	le.PutUint32(b[40:], uint32(h.VocabSize))
	copy(b[48:], h.Tokenizer[:])
	copy(b[80:], h.Payload[:])
	copy(b[112:112+setBytes], h.Set)
	le.PutUint32(b[headerSize-4:], crc32.ChecksumIEEE(b[:headerSize-4]))
	return b
}

// unmarshalHeader reads and validates a header for a file of the given size.
func unmarshalHeader(b []byte, size int64) (Header, error) {
	var h Header
	le := binary.LittleEndian
	if len(b) < headerSize {
		return h, fmt.Errorf("expected a header of %d bytes, found a file of %d", headerSize, size)
	}
	if string(b[:8]) != magic {
		return h, fmt.Errorf("magic: expected %q, found %q; not a packed shard", magic, b[:8])
	}
	if v := le.Uint32(b[8:]); v != version {
		return h, fmt.Errorf("version: expected %d, found %d", version, v)
	}
	if found, want := le.Uint32(b[headerSize-4:]), crc32.ChecksumIEEE(b[:headerSize-4]); found != want {
		return h, fmt.Errorf("header checksum: expected %08x, found %08x; the header is damaged", want, found)
	}
	h.RowLength = int(le.Uint32(b[16:]))
	h.Packing = Packing(le.Uint32(b[20:]))
	h.Rows = int64(le.Uint64(b[24:]))
	h.Tokens = int64(le.Uint64(b[32:]))
	h.VocabSize = int(le.Uint32(b[40:]))
	copy(h.Tokenizer[:], b[48:])
	copy(h.Payload[:], b[80:])
	h.Set = strings.TrimRight(string(b[112:112+setBytes]), "\x00")
	switch {
	case h.RowLength < 1 || h.RowLength > MaxRowLength:
		return h, fmt.Errorf("row length: expected 1 to %d, found %d", MaxRowLength, h.RowLength)
	case packingNames[h.Packing] == "":
		return h, fmt.Errorf("packing: expected 1, 2 or 3, found %d", h.Packing)
	case h.Rows < 1:
		return h, fmt.Errorf("rows: expected at least 1, found %d", h.Rows)
	case h.VocabSize < 1 || h.VocabSize > 1<<16:
		return h, fmt.Errorf("vocabulary: expected 1 to %d, found %d", 1<<16, h.VocabSize)
	case h.Rows > size || h.fileSize() != size:
		return h, fmt.Errorf("size: expected %d bytes for %d rows of %d tokens, found %d", h.fileSize(), h.Rows, h.RowLength+1, size)
	case h.Tokens < h.Rows || h.Tokens > h.Rows*int64(h.RowLength+1):
		return h, fmt.Errorf("tokens: expected %d to %d, found %d", h.Rows, h.Rows*int64(h.RowLength+1), h.Tokens)
	}
	return h, nil
}

// parseSum reads a SHA-256 in hex.
func parseSum(s string) (sum [32]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("checksum: expected 64 hexadecimal digits, found %q", s)
	}
	return [32]byte(b), nil
}
