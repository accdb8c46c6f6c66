package prepare

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"
	"sync"
	"unsafe"

	"mlkv/internal/data"
	"mlkv/internal/data/source"
	"mlkv/internal/tokenizer"
)

// result is what became of a block.
type result struct {
	documents []document
	tokens    []uint16 // of the documents, one behind the other
	records   int64    // whole documents and records that were dropped
	dropped   data.Dropped
	notes     []error // records that were dropped because of what they hold
	damage    error   // ended the block
}

// document is a document, or a part of one, that passed the filters.
type document struct {
	set     string
	tokens  int
	bytes   int64
	hash    uint64 // of its content, where Dedup asks for it
	heldOut bool
	part    bool // continues an earlier document or is continued
	more    bool
}

// worker tokenizes blocks.
type worker struct {
	o       *Options
	tok     *tokenizer.Tokenizer
	encoder *tokenizer.Encoder
	hash    hash.Hash
	bytes   []byte
}

// startWorkers runs the workers; they end when the queue does.
func startWorkers(o *Options, tok *tokenizer.Tokenizer, r *reader) {
	for range o.Workers {
		r.group.Go(func() {
			w := worker{o: o, tok: tok, encoder: tok.NewEncoder(), hash: sha256.New()}
			for t := range r.work {
				t.result <- w.block(r.inputs[t.Input].Path, t.block)
			}
		})
	}
}

// buffers recycles token slices between the packer and the workers.
var buffers = sync.Pool{New: func() any { return new([]uint16) }}

// block decodes and tokenizes a block of the input at path.
func (w *worker) block(path string, b source.Block) *result {
	r := &result{tokens: (*buffers.Get().(*[]uint16))[:0]}
	for doc, err := range b.Documents() {
		var bad *source.BadRecord
		var skipped *source.Skipped
		switch {
		case errors.As(err, &bad):
			r.records++
			r.dropped.Bad++
			r.notes = append(r.notes, err)
		case errors.As(err, &skipped):
			r.dropped.Skipped++
			r.notes = append(r.notes, err)
		case err != nil:
			r.damage = err
			return r
		default:
			if err := w.document(r, doc); err != nil {
				r.dropped.Bad++
				r.notes = append(r.notes, &source.BadRecord{File: path, Unit: "sequence", Number: doc.Number, Err: err})
			}
		}
	}
	return r
}

// document filters and tokenizes a document into r.
func (w *worker) document(r *result, doc source.Document) error {
	if w.o.Packing == data.Rows { // each sequence stands alone
		doc.More, doc.Key = false, ""
	}
	if !doc.More {
		r.records++
	}
	if !w.o.wants(doc.Set) {
		if !doc.More {
			r.dropped.Filtered++
		}
		return nil
	}
	d := document{set: doc.Set, part: doc.Key != "", more: doc.More, bytes: int64(len(doc.Text))}
	if w.o.Sample < 1 || w.o.HeldOut > 0 || w.o.Dedup {
		sum := w.sum(doc)
		if chance(sum, w.o.Seed, "sample") >= w.o.Sample {
			if !doc.More {
				r.dropped.Sampled++
			}
			return nil
		}
		d.heldOut = chance(sum, w.o.Seed, "heldout") < w.o.HeldOut
		d.hash = binary.LittleEndian.Uint64(sum[:])
	}
	from := len(r.tokens)
	if doc.Tokens == nil {
		r.tokens = w.encoder.Append(r.tokens, doc.Text)
	} else {
		tokens := doc.Tokens
		d.bytes = int64(2 * len(tokens))
		for i, id := range tokens {
			if int(id) >= w.tok.VocabSize() {
				return fmt.Errorf("token %d: expected an id below %d, found %d; the tokens are of another tokenizer", i, w.tok.VocabSize(), id)
			}
		}
		// The packers that join documents put the end-of-text token themselves.
		if n := len(tokens); n > 0 && !doc.More && w.o.Packing != data.Rows && int32(tokens[n-1]) == w.tok.EOS() {
			tokens = tokens[:n-1]
		}
		r.tokens = append(r.tokens, tokens...)
	}
	d.tokens = len(r.tokens) - from
	r.documents = append(r.documents, d)
	return nil
}

// sum is the SHA-256 of what a document holds, or of what stands for it.
func (w *worker) sum(doc source.Document) (sum [32]byte) {
	w.hash.Reset()
	switch {
	case doc.Key != "":
		w.hash.Write([]byte(doc.Key))
	case doc.Tokens != nil:
		w.bytes = w.bytes[:0]
		for _, id := range doc.Tokens {
			w.bytes = binary.LittleEndian.AppendUint16(w.bytes, id)
		}
		w.hash.Write(w.bytes)
	default:
		w.hash.Write(unsafe.Slice(unsafe.StringData(doc.Text), len(doc.Text)))
	}
	w.hash.Sum(sum[:0])
	return sum
}

// chance is a number from 0 up to 1 that a document draws for a purpose.
func chance(sum [32]byte, seed int64, purpose string) float64 {
	var b []byte
	b = append(b, sum[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(seed))
	b = append(b, purpose...)
	draw := sha256.Sum256(b)
	return float64(binary.LittleEndian.Uint64(draw[:])>>11) / math.Exp2(53)
}
