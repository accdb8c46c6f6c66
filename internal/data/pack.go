package data

import (
	"fmt"
	"slices"

	"mlkv/internal/ui"
)

// Packer turns documents into rows, one document after the other.
type Packer interface {
	// Add takes the tokens of a document. more says that the next call continues
	// the document.
	Add(tokens []uint16, more bool) error
	// Finish writes what is left.
	Finish() error
	// Save returns what has been taken and not yet written, Restore takes it
	// back into a new packer.
	Save() PackerState
	Restore(PackerState)
}

// PackerState is what a packer holds between rows.
type PackerState struct {
	Tokens  []uint16 `json:"tokens,omitempty"`
	Lengths []int    `json:"lengths,omitempty"` // of the documents in Tokens
	Open    bool     `json:"open,omitempty"`    // the last document goes on
}

// NewPacker returns a packer for rows that predict length tokens. emit takes a
// row of 1 to length+1 tokens, which it must not keep. eos is put behind every
// document.
func NewPacker(p Packing, length int, eos uint16, emit func(row []uint16) error) Packer {
	switch p {
	case Stream:
		return &streamPacker{length: length, eos: eos, emit: emit}
	case Authors:
		return &authorsPacker{length: length, eos: eos, emit: emit}
	case Rows:
		return &rowPacker{length: length, emit: emit}
	}
	panic(fmt.Sprintf("data: no packer for %v", p))
}

// streamPacker packs as Stream says. A tail shorter than a row becomes a row
// that is partly used; a tail with nothing to predict is dropped.
type streamPacker struct {
	length int
	eos    uint16
	emit   func([]uint16) error
	row    []uint16
	open   bool // a document has begun
}

func (p *streamPacker) Add(tokens []uint16, more bool) error {
	p.open = p.open || len(tokens) > 0
	if err := p.append(tokens); err != nil || more || !p.open {
		return err
	}
	p.open = false
	return p.append([]uint16{p.eos})
}

func (p *streamPacker) append(tokens []uint16) error {
	for len(tokens) > 0 {
		n := min(p.length+1-len(p.row), len(tokens))
		p.row = append(p.row, tokens[:n]...)
		tokens = tokens[n:]
		if len(p.row) == p.length+1 {
			if err := p.emit(p.row); err != nil {
				return err
			}
			p.row = append(p.row[:0], p.row[p.length])
		}
	}
	return nil
}

func (p *streamPacker) Finish() error {
	if len(p.row) < 2 {
		return nil
	}
	return p.emit(p.row)
}

func (p *streamPacker) Save() PackerState {
	return PackerState{Tokens: slices.Clone(p.row), Open: p.open}
}

func (p *streamPacker) Restore(s PackerState) { p.row, p.open = slices.Clone(s.Tokens), s.Open }

// authorsGroup is how many documents are sorted together: pack_data.py's batch_size.
const authorsGroup = 2000

// authorsPacker packs as the MLKV authors' truncate_data.py and pack_data.py:
// documents are cut at length tokens; of every 2000, shortest first, each goes
// with an end-of-text token behind those before it as long as the row then has
// at most length tokens. A document of length tokens makes a row of length+1.
type authorsPacker struct {
	length  int
	eos     uint16
	emit    func([]uint16) error
	tokens  []uint16 // of the group's documents
	lengths []int
	open    bool
}

func (p *authorsPacker) Add(tokens []uint16, more bool) error {
	if !p.open {
		p.lengths = append(p.lengths, 0)
	}
	last := &p.lengths[len(p.lengths)-1]
	n := min(len(tokens), p.length-*last)
	p.tokens = append(p.tokens, tokens[:n]...)
	*last += n
	p.open = more
	if more || len(p.lengths) < authorsGroup {
		return nil
	}
	return p.flush()
}

// flush packs the group.
func (p *authorsPacker) flush() error {
	documents := make([][]uint16, len(p.lengths))
	rest := p.tokens
	for i, n := range p.lengths {
		documents[i], rest = rest[:n], rest[n:]
	}
	slices.SortStableFunc(documents, func(a, b []uint16) int { return len(a) - len(b) })
	row := make([]uint16, 0, p.length+1)
	for _, d := range documents {
		if len(row) > 0 && len(row)+len(d)+1 > p.length {
			if err := p.emit(row); err != nil {
				return err
			}
			row = row[:0]
		}
		row = append(append(row, d...), p.eos)
	}
	p.tokens, p.lengths = p.tokens[:0], p.lengths[:0]
	if len(row) == 0 {
		return nil
	}
	return p.emit(row)
}

func (p *authorsPacker) Finish() error { return p.flush() }

func (p *authorsPacker) Save() PackerState {
	return PackerState{Tokens: slices.Clone(p.tokens), Lengths: slices.Clone(p.lengths), Open: p.open}
}

func (p *authorsPacker) Restore(s PackerState) {
	p.tokens, p.lengths, p.open = slices.Clone(s.Tokens), slices.Clone(s.Lengths), s.Open
}

// rowPacker takes each sequence as a row.
type rowPacker struct {
	length int
	emit   func([]uint16) error
}

func (p *rowPacker) Add(tokens []uint16, more bool) error {
	switch {
	case more:
		return ui.Usagef("packing rows: expected whole sequences, found a part of one")
	case len(tokens) == 0:
		return nil
	case len(tokens) > p.length+1:
		return ui.Usagef("packing rows: expected sequences of at most %d + 1 tokens, found %d; set the row length to at least %d", p.length, len(tokens), len(tokens)-1)
	}
	return p.emit(tokens)
}

func (p *rowPacker) Finish() error       { return nil }
func (p *rowPacker) Save() PackerState   { return PackerState{} }
func (p *rowPacker) Restore(PackerState) {}
