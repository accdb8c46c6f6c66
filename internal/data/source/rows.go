package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"mlkv/internal/data"
	"mlkv/internal/ui"
)

// packed reads packed shards (.rows), or a folder of them in the order of its
// manifest. Rows that stream packing made are joined to one document without the
// tokens that they repeat, unless whole rows are asked for.
type packed struct {
	path   string
	shards []*data.Shard
	whole  bool
	shard  int   // of the next block
	row    int64 // of the next block
	number int64 // rows before the next block
	read   int64
}

func openPacked(path string, o Options) (Source, error) {
	shards, err := data.OpenShards([]string{path})
	if err != nil {
		return nil, &Damage{path, err}
	}
	return &packed{path: path, shards: shards, whole: o.WholeRows}, nil
}

// packedInput is an input of packed shards, refused where another tokenizer
// made them.
func packedInput(path string, o Options) (Input, error) {
	in := Input{Path: path, open: func() (Source, error) { return openPacked(path, o) }}
	shards, err := data.OpenShards([]string{path})
	if err != nil {
		return in, err
	}
	for _, s := range shards {
		if o.Tokenizer != "" {
			err = errors.Join(err, s.CheckTokenizer(o.Tokenizer))
		}
		if info, statErr := os.Stat(s.Path()); statErr == nil {
			in.Bytes += info.Size()
		}
		err = errors.Join(err, s.Close())
	}
	if err != nil {
		return in, ui.Inputf("input %s: %w", path, err)
	}
	return in, nil
}

// isPackedFolder says whether a folder holds a manifest of shards.
func isPackedFolder(folder string) bool {
	if _, err := os.Stat(filepath.Join(folder, data.ManifestName)); err != nil {
		return false
	}
	shards, _ := filepath.Glob(filepath.Join(globQuote(folder), "*"+data.ShardSuffix))
	return len(shards) > 0
}

func (p *packed) Next() (Block, error) {
	if p.shard == len(p.shards) {
		return nil, io.EOF
	}
	s := p.shards[p.shard]
	b := &packedBlock{path: p.path, set: s.Set, number: p.number, joined: !p.whole && s.Packing == data.Stream}
	b.first = p.row == 0 && (p.shard == 0 || p.shards[p.shard-1].Set != s.Set)
	for size := 0; size < blockBytes && p.row < s.Rows; p.row++ {
		row, err := s.Row(p.row)
		if err != nil {
			return nil, &Damage{p.path, err}
		}
		b.rows = append(b.rows, slices.Clone(row)) // the block may outlive the mapping
		size += 2 * len(row)
		b.size += int64(2 * len(row))
	}
	p.number += int64(len(b.rows))
	if p.row == s.Rows {
		p.row = 0
		p.shard++
		b.last = p.shard == len(p.shards) || p.shards[p.shard].Set != s.Set
	}
	p.read += b.size
	b.read = p.read
	return b, nil
}

// Sum is the checksum of the shards' checksums.
func (p *packed) Sum() string {
	if p.shard < len(p.shards) {
		return ""
	}
	h := sha256.New()
	for _, s := range p.shards {
		h.Write(s.Payload[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (p *packed) Close() error {
	var err error
	for _, s := range p.shards {
		err = errors.Join(err, s.Close())
	}
	return err
}

// packedBlock is a stretch of rows of one shard.
type packedBlock struct {
	path        string
	set         string
	rows        [][]uint16
	number      int64 // rows before the block
	joined      bool  // rows continue each other
	first, last bool  // of the rows that do
	size, read  int64
}

func (b *packedBlock) Size() int64 { return b.size }
func (b *packedBlock) Read() int64 { return b.read }

func (b *packedBlock) Documents() iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		for i, row := range b.rows {
			doc := Document{Tokens: row, Set: b.set, Number: b.number + int64(i) + 1}
			if b.joined {
				doc.Key = fmt.Sprintf("%s: %s", b.path, b.set)
				doc.More = !b.last || i < len(b.rows)-1
				if !b.first || i > 0 {
					doc.Tokens = row[1:]
				}
			}
			if !yield(doc, nil) {
				return
			}
		}
	}
}
