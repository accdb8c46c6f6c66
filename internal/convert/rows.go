package convert

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"mlkv/internal/data"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// shards is what a reader needs to know of packed shards beside their rows.
type shards struct {
	rowLength int
	checksum  string
}

// amount is how much to read: rows, or where that is 0, as many rows as hold
// tokens.
type amount struct{ rows, tokens int }

// of is the amount in rows of a length.
func (a amount) of(length int) int {
	if a.rows > 0 {
		return a.rows
	}
	return (a.tokens + length - 1) / length
}

// readRows returns the first rows of packed shards in the order that o asks
// for, fewer where they hold fewer. The shards must be of the tokenizer in the
// folder model, if it has one.
func readRows(paths []string, n amount, model string, o data.LoaderOptions) ([][]uint16, shards, error) {
	l, err := data.OpenLoader(paths, o)
	if err != nil {
		return nil, shards{}, err
	}
	defer l.Close()
	file := filepath.Join(model, "tokenizer.json")
	sum, err := provenance.FileSHA256(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, shards{}, ui.Inputf("%s: %w", file, err)
	case sum != l.Tokenizer():
		return nil, shards{}, ui.Inputf("%v: tokenizer: expected that of %s (SHA-256 %s), found another (%s); pack the text again with mlkv prepare",
			paths, file, sum, l.Tokenizer())
	}
	rows := make([][]uint16, min(int64(n.of(l.RowLength())), l.Rows()))
	for i := range rows {
		row, err := l.Next()
		if err != nil {
			return nil, shards{}, err
		}
		rows[i] = slices.Clone(row)
	}
	return rows, shards{l.RowLength(), l.Checksum()}, nil
}
