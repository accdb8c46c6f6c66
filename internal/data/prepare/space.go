package prepare

import (
	"path/filepath"
	"strings"

	"mlkv/internal/data"
	"mlkv/internal/data/source"
	"mlkv/internal/ui"
)

// checkSpace refuses to begin where the disk surely cannot hold the result.
func checkSpace(folder string, inputs []source.Input, o *Options) error {
	free, ok := freeBytes(folder)
	need := surelyNeeded(inputs, o)
	if !ok || need <= free {
		return nil
	}
	return ui.Usagef("prepare: disk of %s: expected at least %s free, found %s; free some, take less with --sample or --limit, or write elsewhere",
		o.Out, ui.FormatBytes(need), ui.FormatBytes(free))
}

// surelyNeeded is a low guess of the result's size from that of the inputs: a
// byte of text makes half a byte of tokens, and compressed text is about a third
// of the text. With a limit or a filter nothing is sure.
func surelyNeeded(inputs []source.Input, o *Options) int64 {
	if o.Limit > 0 || len(o.Sets) > 0 || len(o.ExcludeSets) > 0 || o.Dedup {
		return 0
	}
	var guess float64
	for _, in := range inputs {
		switch strings.ToLower(filepath.Ext(in.Path)) {
		case ".zst", ".gz", ".parquet":
			guess += 1.5 * float64(in.Bytes)
		case ".idx", data.ShardSuffix:
			guess += float64(in.Bytes)
		default:
			guess += 0.5 * float64(in.Bytes)
		}
	}
	const sure = 0.6 // of the guess is needed whatever the text
	return int64(sure * o.Sample * guess)
}
