// Package source reads documents from the files that hold text or tokens: JSON
// lines as the Pile has them, plain or compressed, text files, source trees,
// parquet, Megatron's token files and packed shards. Each form is one file of
// this package behind the Source interface.
//
// A source is read by one goroutine, block after block; blocks are decoded by
// any goroutine. How a source is cut into blocks depends on its content only.
package source

import (
	"fmt"
	"iter"
)

// Document is one text, or one sequence of tokens, or a part of one.
type Document struct {
	// Text is UTF-8 and valid until the iteration goes on.
	Text string
	// Tokens stand in place of Text in sources that hold token ids.
	Tokens []uint16
	// Set is the part of the Pile that the document is from (meta.pile_set_name),
	// empty where the source does not say.
	Set string
	// More says that the next document of the source continues this one.
	More bool
	// Key stands for a document that comes in parts, the same in each of them;
	// empty for a document that is whole.
	Key string
	// Number of the record in its file, from 1, in sources that hold token ids.
	Number int64
}

// Source is one input: a file or a tree of text files.
type Source interface {
	// Next returns the next block and io.EOF after the last. A *Damage ends the
	// source.
	Next() (Block, error)
	// Sum is the SHA-256 of the input in hex. It is complete after io.EOF and
	// empty before.
	Sum() string
	Close() error
}

// Block is a stretch of a source.
type Block interface {
	// Documents decodes the block. An error is a *BadRecord, after which the
	// iteration goes on, or a *Damage, which ends it.
	Documents() iter.Seq2[Document, error]
	// Size is the memory that the block takes, in bytes.
	Size() int64
	// Read is how much of the input's size on disk has been read up to the
	// block's end, in bytes.
	Read() int64
}

// BadRecord is one record that cannot be used, while those after it can.
type BadRecord struct {
	File string
	Unit string // what Number counts: "line", "row"
	// Number of the record in its file, from 1.
	Number int64
	Err    error
}

func (e *BadRecord) Error() string {
	if e.Unit == "line" {
		return fmt.Sprintf("%s:%d: %v", e.File, e.Number, e.Err)
	}
	return fmt.Sprintf("%s: %s %d: %v", e.File, e.Unit, e.Number, e.Err)
}

func (e *BadRecord) Unwrap() error { return e.Err }

// Damage is an input of which the rest cannot be read.
type Damage struct {
	File string
	Err  error
}

func (e *Damage) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }

func (e *Damage) Unwrap() error { return e.Err }

// blockBytes is how much of an input makes a block, maxRecord how long one
// record may be.
const (
	blockBytes = 1 << 20
	maxRecord  = 64 << 20
)
