package prepare

import (
	"path/filepath"
	"strings"

	"mlkv/internal/data/source"
	"mlkv/internal/ui"
)

// checkSpace refuses to begin where the disk surely cannot hold the result. The
// size of the result is guessed from that of the inputs: a byte of text makes
// half a byte of tokens, and compressed text is about a third of the text.
func checkSpace(folder string, inputs []source.Input, o *Options) error {
	free, ok := freeBytes(folder)
	if !ok || o.Limit > 0 {
		return nil
	}
	var guess float64
	for _, in := range inputs {
		switch strings.ToLower(filepath.Ext(in.Path)) {
		case ".zst", ".gz", ".parquet":
			guess += 1.5 * float64(in.Bytes)
		case ".bin", ".idx", ".rows":
			guess += float64(in.Bytes)
		default:
			guess += 0.5 * float64(in.Bytes)
		}
	}
	guess *= o.Sample
	const sure = 0.6 // of the guess is needed whatever the text
	if need := int64(sure * guess); need > free {
		return ui.Usagef("prepare: disk of %s: expected at least %s free, found %s; free some, take less with --sample or --limit, or write elsewhere",
			o.Out, ui.FormatBytes(need), ui.FormatBytes(free))
	}
	return nil
}
