package source

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"

	"mlkv/internal/provenance"
)

// parquetFile reads a parquet file: the column of texts, or the lists of token
// ids in the column input_ids, with the set from pile_set_name or
// meta.pile_set_name where there is one.
type parquetFile struct {
	path   string
	file   *os.File
	size   int64
	groups []parquet.RowGroup
	text   int // index of the column of texts, -1 without
	ids    int // index of the column of token ids, -1 without
	set    int // index of the column of sets, -1 without

	group int // next row group
	main  *cells
	sets  *cells
	row   int64 // rows before the next block
	rows  int64 // of the file
	sum   string
}

// idsColumn is the column of token ids, as the MLKV authors' packed set has it.
const idsColumn = "input_ids"

func openParquet(path string, o Options) (Source, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &Damage{path, err}
	}
	p := &parquetFile{path: path, file: file}
	if err := guard(func() error { return p.open(o.TextKey) }); err != nil {
		file.Close()
		return nil, &Damage{path, err}
	}
	return p, nil
}

// guard turns a panic of the parquet library, which damaged files can cause,
// into an error.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged parquet: %v", r)
		}
	}()
	return f()
}

// open reads the footer and finds the columns.
func (p *parquetFile) open(textKey string) error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	p.size = info.Size()
	f, err := parquet.OpenFile(p.file, p.size, parquet.SkipBloomFilters(true), parquet.SkipPageIndex(true))
	if err != nil {
		return fmt.Errorf("parquet: %w", err)
	}
	p.groups = f.RowGroups()
	p.rows = f.NumRows()
	p.text, p.ids, p.set = -1, -1, -1
	var names []string
	for i, path := range f.Schema().Columns() {
		name := strings.Join(path, ".")
		names = append(names, name)
		leaf, ok := f.Schema().Lookup(path...)
		if !ok {
			continue
		}
		kind := leaf.Node.Type().Kind()
		isBytes, isInt := kind == parquet.ByteArray, kind == parquet.Int32 || kind == parquet.Int64
		switch {
		case name == textKey && isBytes && leaf.MaxRepetitionLevel == 0:
			p.text = i
		case path[0] == idsColumn && isInt && leaf.MaxRepetitionLevel == 1:
			p.ids = i
		case (name == "pile_set_name" || name == "meta.pile_set_name") && isBytes && leaf.MaxRepetitionLevel == 0:
			p.set = i
		}
	}
	if p.text < 0 && p.ids < 0 {
		return fmt.Errorf("parquet: expected a column %q of strings or %q of lists of integers, found the columns %s", textKey, idsColumn, strings.Join(names, ", "))
	}
	return nil
}

func (p *parquetFile) Next() (Block, error) {
	b := &parquetBlock{file: p.path, first: p.row + 1, tokens: p.text < 0}
	if err := guard(func() error { return p.fill(b) }); err != nil {
		return nil, &Damage{p.path, fmt.Errorf("parquet: row %d: %w", p.row+1, err)}
	}
	if len(b.records) == 0 {
		if p.row != p.rows {
			return nil, &Damage{p.path, fmt.Errorf("parquet: expected %d rows, found %d", p.rows, p.row)}
		}
		var err error
		if p.sum, err = provenance.FileSHA256(p.path); err != nil {
			return nil, &Damage{p.path, err}
		}
		return nil, io.EOF
	}
	b.read = int64(float64(p.size) * float64(p.row) / float64(max(1, p.rows)))
	return b, nil
}

// fill reads rows until the block is full or the file ends.
func (p *parquetFile) fill(b *parquetBlock) error {
	for b.Size() < blockBytes {
		if p.main == nil {
			if p.group == len(p.groups) {
				return nil
			}
			p.openGroup()
		}
		r, err := p.record(b)
		if errors.Is(err, io.EOF) {
			if err := p.closeGroup(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if p.sets != nil {
			v, err := p.sets.next()
			if err != nil {
				return fmt.Errorf("pile_set_name: %w", noEOF(err))
			}
			if !v.IsNull() {
				r.set = b.intern(v.ByteArray())
			}
		}
		b.records = append(b.records, r)
		p.row++
	}
	return nil
}

func (p *parquetFile) openGroup() {
	chunks := p.groups[p.group].ColumnChunks()
	p.group++
	if p.text >= 0 {
		p.main = newCells(chunks[p.text])
	} else {
		p.main = newCells(chunks[p.ids])
	}
	p.sets = nil
	if p.set >= 0 {
		p.sets = newCells(chunks[p.set])
	}
}

func (p *parquetFile) closeGroup() error {
	err := p.main.close()
	if p.sets != nil {
		err = errors.Join(err, p.sets.close())
	}
	p.main, p.sets = nil, nil
	return err
}

// record reads one row's text or tokens into the block.
func (p *parquetFile) record(b *parquetBlock) (r parquetRecord, err error) {
	v, err := p.main.next()
	if err != nil {
		return r, err
	}
	r.null = v.IsNull()
	if p.text >= 0 {
		b.text = append(b.text, v.ByteArray()...)
		r.end = len(b.text)
		return r, nil
	}
	for i := 0; ; i++ {
		if !v.IsNull() && r.err == nil {
			var id uint16
			if id, r.err = tokenID(i, integer(v)); r.err == nil {
				b.ids = append(b.ids, id)
			}
		}
		r.end = len(b.ids)
		if again, err := p.main.peek(); err != nil || again.RepetitionLevel() == 0 {
			r.null = false // an empty list
			return r, noErrEOF(err)
		}
		if v, err = p.main.next(); err != nil {
			return r, noEOF(err)
		}
	}
}

func integer(v parquet.Value) int64 {
	if v.Kind() == parquet.Int32 {
		return int64(v.Int32())
	}
	return v.Int64()
}

// noEOF makes an end where there should be none a plain error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// noErrEOF lets an end pass.
func noErrEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (p *parquetFile) Sum() string { return p.sum }

func (p *parquetFile) Close() error {
	var err error
	if p.main != nil {
		err = guard(p.closeGroup)
	}
	return errors.Join(err, p.file.Close())
}

// cells reads the values of one column of a row group in order.
type cells struct {
	pages  parquet.Pages
	page   parquet.Page
	values parquet.ValueReader
	buffer []parquet.Value
	ahead  []parquet.Value // of buffer, not handed out
}

func newCells(chunk parquet.ColumnChunk) *cells {
	return &cells{pages: chunk.Pages(), buffer: make([]parquet.Value, 256)}
}

// next returns the next value, valid until the next call; io.EOF after the last.
func (c *cells) next() (parquet.Value, error) {
	v, err := c.peek()
	if err == nil {
		c.ahead = c.ahead[1:]
	}
	return v, err
}

// peek returns the next value without taking it.
func (c *cells) peek() (parquet.Value, error) {
	for len(c.ahead) == 0 {
		if c.values == nil {
			parquet.Release(c.page)
			var err error
			if c.page, err = c.pages.ReadPage(); err != nil {
				return parquet.Value{}, err
			}
			c.values = c.page.Values()
		}
		n, err := c.values.ReadValues(c.buffer)
		c.ahead = c.buffer[:n]
		if errors.Is(err, io.EOF) {
			c.values = nil
		} else if err != nil {
			return parquet.Value{}, err
		}
	}
	return c.ahead[0], nil
}

func (c *cells) close() error {
	parquet.Release(c.page)
	return c.pages.Close()
}

// parquetBlock is a stretch of rows.
type parquetBlock struct {
	file    string
	first   int64
	tokens  bool
	text    []byte
	ids     []uint16
	records []parquetRecord
	names   map[string]string
	read    int64
}

// parquetRecord is a row; its text or ids begin where those of the row before end.
type parquetRecord struct {
	end  int
	set  string
	null bool
	err  error
}

func (b *parquetBlock) intern(name []byte) string {
	if b.names == nil {
		b.names = map[string]string{}
	}
	return intern(b.names, name)
}

func (b *parquetBlock) Size() int64 { return int64(len(b.text) + 2*len(b.ids)) }
func (b *parquetBlock) Read() int64 { return b.read }

func (b *parquetBlock) Documents() iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		from := 0
		for i, r := range b.records {
			doc := Document{Set: r.set, Number: b.first + int64(i)}
			err := r.err
			if b.tokens {
				doc.Tokens = slices.Clip(b.ids[from:r.end])
			} else {
				text := b.text[from:r.end]
				doc.Text = asString(text)
				if _, bad := invalidUTF8(text); bad {
					err = errInvalidUTF8
				}
			}
			from = r.end
			if r.null {
				err = errors.New("expected a value, found null")
			}
			if err != nil {
				doc, err = Document{}, &BadRecord{File: b.file, Unit: "row", Number: doc.Number, Err: err}
			}
			if !yield(doc, err) {
				return
			}
		}
	}
}
