package data

import (
	"crypto/sha256"
	"encoding/hex"
	"sort"

	"mlkv/internal/ui"
)

// LoaderOptions say in which order rows come.
type LoaderOptions struct {
	// Shuffle puts the rows of all shards in an order that Seed and the epoch
	// choose; otherwise they come as they lie.
	Shuffle bool
	Seed    int64
	// Weights is the share of an epoch's rows for each set (Header.Set), as
	// numbers in proportion to each other. Sets without a weight are left out.
	// Without Weights every row comes once an epoch.
	Weights map[string]float64
	// Rank of Ranks loaders that share the rows: each takes every Ranks-th row of
	// the order. Ranks 0 stands for 1.
	Rank, Ranks int
	// Prefetch is how many rows are brought into memory ahead of Next. It does
	// not change their order.
	Prefetch int
}

// Position is a place in the order of rows: the rows of all ranks before it
// have been taken.
type Position struct {
	Epoch int64 `json:"epoch"`
	Row   int64 `json:"row"` // within the epoch, 0 <= Row < Loader.Rows
}

// Loader hands out rows of packed shards without end, epoch after epoch. The
// order of an epoch is computed, not stored. It is for one goroutine.
type Loader struct {
	shards []*Shard
	order  order
	rank   int64
	ranks  int64
	next   Position
	ahead  *prefetcher // nil without Prefetch
	depth  int
}

// OpenLoader maps the shards that paths name, files or folders. Errors carry
// ui.ExitInput or ui.ExitUsage.
func OpenLoader(paths []string, o LoaderOptions) (*Loader, error) {
	shards, err := OpenShards(paths)
	if err != nil {
		return nil, err
	}
	l := &Loader{shards: shards, rank: int64(o.Rank), ranks: int64(max(1, o.Ranks)), depth: o.Prefetch}
	if l.rank < 0 || l.rank >= l.ranks {
		closeAll(shards)
		return nil, ui.Usagef("loader: rank: expected 0 to %d, found %d", l.ranks-1, l.rank)
	}
	if l.order, err = newOrder(shards, o); err != nil {
		closeAll(shards)
		return nil, err
	}
	return l, nil
}

// Rows is the number of rows in an epoch, those of all ranks.
func (l *Loader) Rows() int64 { return l.order.rows }

// RowLength is the number of tokens that a full row predicts; a row has at most
// one token more.
func (l *Loader) RowLength() int { return l.shards[0].RowLength }

// VocabSize is such that every token is below it.
func (l *Loader) VocabSize() int {
	size := 0
	for _, s := range l.shards {
		size = max(size, s.VocabSize)
	}
	return size
}

// Tokenizer is the checksum of the tokenizer that made the rows, as
// tokenizer.Tokenizer's Checksum gives it.
func (l *Loader) Tokenizer() string { return hex.EncodeToString(l.shards[0].Header.Tokenizer[:]) }

// Shards are the mapped shards in their order.
func (l *Loader) Shards() []*Shard { return l.shards }

// Checksum is the SHA-256 of the shards' checksums in their order, in hex.
func (l *Loader) Checksum() string {
	h := sha256.New()
	for _, s := range l.shards {
		h.Write(s.Payload[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Next returns the next row, valid until Close. After the last row of an epoch
// comes the first of the next.
func (l *Loader) Next() ([]uint16, error) {
	var row []uint16
	var err error
	if l.depth > 0 {
		if l.ahead == nil {
			l.ahead = startPrefetch(l, l.next, l.depth)
		}
		row, err = l.ahead.next()
	} else {
		row, err = l.at(l.next)
	}
	if err != nil {
		return nil, err
	}
	l.next = l.after(l.next)
	return row, nil
}

// at is this rank's row at a position.
func (l *Loader) at(p Position) ([]uint16, error) {
	p.Row += l.rank
	p.Epoch += p.Row / l.order.rows
	p.Row %= l.order.rows
	return l.row(l.order.at(p))
}

func (l *Loader) after(p Position) Position {
	p.Row += l.ranks
	p.Epoch += p.Row / l.order.rows
	p.Row %= l.order.rows
	return p
}

// row is row i of all shards one behind the other.
func (l *Loader) row(i int64) ([]uint16, error) {
	starts := l.order.starts
	k := sort.Search(len(starts), func(k int) bool { return starts[k] > i }) - 1
	return l.shards[k].Row(i - starts[k])
}

// Position is that of the row that Next gives next. It is the same for all
// ranks that have taken equally many rows.
func (l *Loader) Position() Position { return l.next }

// Seek makes p the position of the next row.
func (l *Loader) Seek(p Position) error {
	if p.Epoch < 0 || p.Row < 0 || p.Row >= l.order.rows {
		return ui.Inputf("loader: position: expected an epoch of 0 or more and a row of 0 to %d, found epoch %d, row %d; the data is not what the run was started with",
			l.order.rows-1, p.Epoch, p.Row)
	}
	l.stop()
	l.next = p
	return nil
}

func (l *Loader) stop() {
	if l.ahead != nil {
		l.ahead.stop()
		l.ahead = nil
	}
}

// Close unmaps the shards; rows become invalid.
func (l *Loader) Close() error {
	l.stop()
	return closeAll(l.shards)
}
