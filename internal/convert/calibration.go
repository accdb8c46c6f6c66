package convert

import (
	"os"
	"path/filepath"
	"strings"

	"mlkv/internal/data"
	"mlkv/internal/data/source"
	"mlkv/internal/provenance"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// Calibration is the text that shared heads are fitted on.
type Calibration struct {
	// Paths are packed shards, folders of them, or text of the forms that
	// mlkv prepare reads.
	Paths []string
	// Rows is how many; 0 stands for absorb.DefaultTokens.
	Rows int
	// Seed chooses the rows of packed shards. Text is taken from its beginning.
	Seed int64
	// RowLength is the number of tokens in a row of text.
	RowLength int
}

// read returns rows of tokens, and the checksum of what they are from by path.
// model is the folder whose tokenizer made them or is to make them, tokens how
// many there shall be where Rows does not say.
func (c Calibration) read(model string, tokens int) (rows [][]int32, sums map[string]string, err error) {
	packed, err := c.packed()
	if err != nil {
		return nil, nil, err
	}
	if packed {
		return c.readPacked(model, amount{c.Rows, tokens})
	}
	return c.readText(model, amount{c.Rows, tokens})
}

// packed reports whether the paths are packed shards rather than text.
func (c Calibration) packed() (bool, error) {
	found := 0
	for _, path := range c.Paths {
		info, err := os.Stat(path)
		if err != nil {
			return false, ui.Inputf("calibration: %w", err)
		}
		shards := []string{path}
		if info.IsDir() {
			if shards, err = filepath.Glob(filepath.Join(path, "*"+data.ShardSuffix)); err != nil {
				return false, err
			}
		}
		if len(shards) > 0 && strings.HasSuffix(shards[0], data.ShardSuffix) {
			found++
		}
	}
	if found > 0 && found < len(c.Paths) {
		return false, ui.Usagef("calibration: expected packed shards or text, found both in %s", strings.Join(c.Paths, ", "))
	}
	return found > 0, nil
}

func (c Calibration) readPacked(model string, n amount) ([][]int32, map[string]string, error) {
	packed, l, err := readRows(c.Paths, n, model, data.LoaderOptions{Shuffle: true, Seed: c.Seed})
	if err != nil {
		return nil, nil, err
	}
	var rows [][]int32
	for _, row := range packed {
		// What follows the last input of a full row is only predicted.
		tokens := make([]int32, min(len(row), l.rowLength))
		for i := range tokens {
			tokens[i] = int32(row[i])
		}
		if len(tokens) > 0 {
			rows = append(rows, tokens)
		}
	}
	return rows, map[string]string{strings.Join(c.Paths, ","): l.checksum}, nil
}

func (c Calibration) readText(model string, n amount) ([][]int32, map[string]string, error) {
	tok, err := tokenizer.Load(model)
	if err != nil {
		return nil, nil, err
	}
	inputs, err := source.Find(c.Paths, source.Options{})
	if err != nil {
		return nil, nil, err
	}
	want := n.of(c.RowLength) * c.RowLength
	var stream []int32
	sums := map[string]string{}
	for _, in := range inputs {
		if len(stream) >= want {
			break
		}
		if stream, err = appendText(stream, want, in, tok); err != nil {
			return nil, nil, ui.Inputf("calibration: %w", err)
		}
		if info, err := os.Stat(in.Path); err != nil || info.IsDir() {
			continue
		}
		if sums[in.Path], err = provenance.FileSHA256(in.Path); err != nil {
			return nil, nil, err
		}
	}
	stream = stream[:min(len(stream), want)]
	var rows [][]int32
	for len(stream) > 0 {
		n := min(len(stream), c.RowLength)
		rows, stream = append(rows, stream[:n]), stream[n:]
	}
	return rows, sums, nil
}

// appendText encodes documents of an input, each followed by the token that
// ends it, until there are want tokens.
func appendText(stream []int32, want int, in source.Input, tok *tokenizer.Tokenizer) ([]int32, error) {
	for document, err := range in.Encoded(tok.Encode) {
		if err != nil {
			return nil, err
		}
		stream = append(append(stream, document...), tok.EOS())
		if len(stream) >= want {
			break
		}
	}
	return stream, nil
}
