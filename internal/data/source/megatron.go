package source

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// megatron reads a Megatron MMIDIDX pair: an index (.idx) and the token file
// beside it (.bin), which may be cut into parts NAME-00000-of-00020.bin. All
// little-endian, the index is
//
//	magic "MMIDIDX\0\0", int64 version 1, int8 dtype, int64 sequences, int64 documents+1,
//	int32 lengths[sequences], int64 byte offsets[sequences], int64 first sequences[documents+1]
//
// Each sequence is a Document; sequences of one document follow each other with More.
type megatron struct {
	path      string
	index     *os.File
	lengths   *column
	offsets   *column
	documents *column
	bin       io.Reader
	parts     []*os.File
	hash      hash.Hash
	width     int64 // bytes of a token
	dtype     byte
	total     int64 // sequences
	binSize   int64
	read      int64 // bytes of index and token file

	at       int64 // next sequence
	end      int64 // byte offset of the end of the last one
	document int64 // of the next sequence
	last     int64 // first sequence of the document after it
	within   bool  // the next sequence continues a document
	sum      string
}

const (
	indexMagic  = "MMIDIDX\x00\x00"
	indexHeader = 9 + 8 + 1 + 8 + 8
)

// tokenWidths is the size of a token by dtype code, for integers.
var tokenWidths = map[byte]int64{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}

func openMegatron(path string, _ Options) (Source, error) {
	m := &megatron{path: path, hash: sha256.New()}
	if err := m.open(); err != nil {
		m.Close()
		return nil, &Damage{path, err}
	}
	return m, nil
}

// binPaths are the token files of an index.
func binPaths(index string) ([]string, error) {
	stem := strings.TrimSuffix(index, ".idx")
	if _, err := os.Stat(stem + ".bin"); err == nil {
		return []string{stem + ".bin"}, nil
	}
	parts, err := filepath.Glob(globQuote(stem) + "-[0-9]*-of-[0-9]*.bin")
	if err != nil || len(parts) == 0 {
		return nil, fmt.Errorf("expected its tokens in %s.bin or %s-00000-of-....bin, found neither", stem, stem)
	}
	slices.Sort(parts)
	for i, part := range parts {
		if want := fmt.Sprintf("%s-%05d-of-%05d.bin", stem, i, len(parts)); part != want {
			return nil, fmt.Errorf("token files: expected %s, found %s; a part is missing", want, part)
		}
	}
	return parts, nil
}

// globQuote escapes what has a meaning in a pattern.
func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

// megatronSize is the size of all files of a pair.
func megatronSize(index string, size int64) int64 {
	paths, _ := binPaths(index)
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil {
			size += info.Size()
		}
	}
	return size
}

func (m *megatron) open() (err error) {
	if m.index, err = os.Open(m.path); err != nil {
		return err
	}
	if m.read, err = io.Copy(m.hash, m.index); err != nil {
		return err
	}
	paths, err := binPaths(m.path)
	if err != nil {
		return err
	}
	var readers []io.Reader
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		m.parts = append(m.parts, f)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		m.binSize += info.Size()
		readers = append(readers, f)
	}
	m.bin = bufio.NewReaderSize(io.MultiReader(readers...), blockBytes)
	return m.header()
}

// header reads and validates the head of the index.
func (m *megatron) header() error {
	b := make([]byte, indexHeader)
	if _, err := m.index.ReadAt(b, 0); err != nil {
		return fmt.Errorf("index: expected a header of %d bytes, found %d", len(b), m.read)
	}
	le := binary.LittleEndian
	if string(b[:9]) != indexMagic {
		return fmt.Errorf("index: magic: expected %q, found %q", indexMagic, b[:9])
	}
	if v := le.Uint64(b[9:]); v != 1 {
		return fmt.Errorf("index: version: expected 1, found %d", v)
	}
	m.dtype = b[17]
	m.width = tokenWidths[m.dtype]
	if m.width == 0 {
		return fmt.Errorf("index: dtype: expected 8 (uint16) or another integer, found code %d", m.dtype)
	}
	m.total = int64(le.Uint64(b[18:]))
	documents := int64(le.Uint64(b[26:]))
	if m.total < 0 || documents < 0 || m.total > m.read || documents > m.read || indexHeader+12*m.total+8*documents != m.read {
		return fmt.Errorf("index: %d sequences and %d document bounds do not make a file of %d bytes", m.total, documents, m.read)
	}
	m.lengths = newColumn(m.index, indexHeader, m.total, 4)
	m.offsets = newColumn(m.index, indexHeader+4*m.total, m.total, 8)
	m.documents = newColumn(m.index, indexHeader+12*m.total, documents, 8)
	if documents > 0 {
		if first, err := m.documents.next(); err != nil || first != 0 {
			return fmt.Errorf("index: documents: expected the first to begin at sequence 0, found %d (%v)", first, err)
		}
	}
	return nil
}

func (m *megatron) Next() (Block, error) {
	b := &megatronBlock{file: m.path, first: m.at + 1, width: m.width, dtype: m.dtype, within: m.within}
	size := int64(0)
	for m.at < m.total && size < blockBytes {
		length, err := m.sequence()
		if err != nil {
			return nil, &Damage{m.path, err}
		}
		more, err := m.continued()
		if err != nil {
			return nil, &Damage{m.path, err}
		}
		b.lengths = append(b.lengths, length)
		b.more = append(b.more, more)
		m.within = more
		b.documents = append(b.documents, m.document)
		size += length * m.width
		m.at++
	}
	if len(b.lengths) == 0 {
		if m.end != m.binSize {
			return nil, &Damage{m.path, fmt.Errorf("the index describes %d bytes of tokens, the .bin has %d", m.end, m.binSize)}
		}
		m.sum = hex.EncodeToString(m.hash.Sum(nil))
		return nil, io.EOF
	}
	b.data = make([]byte, size)
	if n, err := fill(m.bin, b.data); int64(n) < size {
		return nil, &Damage{m.path, fmt.Errorf("sequences %d to %d: expected %d bytes in the .bin, found %d (%w)", b.first, m.at, size, n, err)}
	}
	m.hash.Write(b.data)
	m.read += size
	b.read = m.read
	return b, nil
}

// sequence reads and validates the length of the next sequence.
func (m *megatron) sequence() (int64, error) {
	length, err := m.lengths.next()
	if err != nil {
		return 0, fmt.Errorf("index: lengths: %w", err)
	}
	offset, err := m.offsets.next()
	if err != nil {
		return 0, fmt.Errorf("index: offsets: %w", err)
	}
	switch {
	case length < 0 || length > math.MaxInt32 || length*m.width > maxRecord:
		return 0, fmt.Errorf("index: sequence %d: expected at most %d bytes, found %d tokens", m.at+1, maxRecord, length)
	case offset != m.end:
		return 0, fmt.Errorf("index: sequence %d: expected offset %d behind the one before, found %d", m.at+1, m.end, offset)
	case offset+length*m.width > m.binSize:
		return 0, fmt.Errorf("sequence %d: the index puts it at bytes %d to %d, the .bin has %d", m.at+1, offset, offset+length*m.width, m.binSize)
	}
	m.end += length * m.width
	return length, nil
}

// continued says whether the sequence after the next belongs to its document,
// and counts documents.
func (m *megatron) continued() (bool, error) {
	for m.last <= m.at {
		next, err := m.documents.next()
		if errors.Is(err, io.EOF) {
			next, err = m.at+1, nil // behind the last document each sequence is its own
		}
		if err != nil {
			return false, fmt.Errorf("index: documents: %w", err)
		}
		if next < m.last || next > m.total {
			return false, fmt.Errorf("index: document %d: expected to end at sequence %d to %d, found %d", m.document+1, m.last, m.total, next)
		}
		m.last = next
		m.document++
	}
	return m.last > m.at+1, nil
}

func (m *megatron) Sum() string { return m.sum }

func (m *megatron) Close() error {
	var err error
	for _, f := range append(m.parts, m.index) {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// column reads the integers of one part of an index in order.
type column struct {
	in    *bufio.Reader
	width int64
	left  int64
}

func newColumn(f io.ReaderAt, at, n, width int64) *column {
	return &column{bufio.NewReaderSize(io.NewSectionReader(f, at, n*width), 256<<10), width, n}
}

func (c *column) next() (int64, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	c.left--
	var b [8]byte
	if _, err := io.ReadFull(c.in, b[:c.width]); err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	if c.width == 4 {
		return int64(int32(binary.LittleEndian.Uint32(b[:]))), nil
	}
	return int64(binary.LittleEndian.Uint64(b[:])), nil
}

// megatronBlock is a stretch of sequences.
type megatronBlock struct {
	file      string
	first     int64
	lengths   []int64
	more      []bool
	documents []int64
	data      []byte
	width     int64
	dtype     byte
	within    bool // the first sequence continues a document
	read      int64
}

func (b *megatronBlock) Size() int64 { return int64(len(b.data)) }
func (b *megatronBlock) Read() int64 { return b.read }

func (b *megatronBlock) Documents() iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		data := b.data
		inParts := false
		for i, n := range b.lengths {
			doc := Document{More: b.more[i], Number: b.first + int64(i)}
			if inParts || doc.More || i == 0 && b.within {
				doc.Key = fmt.Sprintf("%s: document %d", b.file, b.documents[i])
			}
			inParts = doc.More
			var err error
			doc.Tokens, err = decodeTokens(data[:n*b.width], b.dtype)
			data = data[n*b.width:]
			if err != nil {
				err = &BadRecord{File: b.file, Unit: "sequence", Number: doc.Number, Err: err}
				if doc.Key != "" && !yield(Document{Key: doc.Key, More: doc.More}, nil) {
					return
				}
				doc = Document{}
			}
			if !yield(doc, err) {
				return
			}
		}
	}
}
