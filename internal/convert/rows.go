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

// readRows returns the first n rows of packed shards, fewer where they hold
// fewer. The shards must be of the tokenizer in the folder model, if it has
// one.
func readRows(paths []string, n int, model string) ([][]uint16, error) {
	l, err := data.OpenLoader(paths, data.LoaderOptions{})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	file := filepath.Join(model, "tokenizer.json")
	sum, err := provenance.FileSHA256(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, ui.Inputf("%s: %w", file, err)
	case sum != l.Tokenizer():
		return nil, ui.Inputf("%v: tokenizer: expected that of %s (SHA-256 %s), found another (%s); pack the text again with mlkv prepare",
			paths, file, sum, l.Tokenizer())
	}
	rows := make([][]uint16, min(int64(n), l.Rows()))
	for i := range rows {
		row, err := l.Next()
		if err != nil {
			return nil, err
		}
		rows[i] = slices.Clone(row)
	}
	return rows, nil
}
