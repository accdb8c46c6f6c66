// Package prepare turns documents into folders of packed shards.
//
// One goroutine reads the inputs in order, block after block; workers decode
// and tokenize blocks; one goroutine takes their results in the order of the
// blocks, packs and writes. What is written therefore depends on the inputs and
// options only. Now and then the state is saved beside the output, from where
// an interrupted preparation goes on.
package prepare

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"mlkv/internal/data"
	"mlkv/internal/ui"
)

// Options of a preparation.
type Options struct {
	// Inputs are files, or folders of which Globs choose files.
	Inputs []string `json:"inputs"`
	Globs  []string `json:"globs,omitempty"`
	// TextKey is the field of JSON and parquet that holds the text.
	TextKey string `json:"text_key"`

	// Out is the folder to write; it gets a subfolder HeldoutFolder with HeldOut.
	Out   string `json:"out"`
	Force bool   `json:"force"` // replace Out

	Tokenizer string       `json:"tokenizer"`  // tokenizer.json, or a folder that holds one
	RowLength int          `json:"row_length"` // tokens that a row predicts
	Packing   data.Packing `json:"packing"`

	// Sets are the only pile_set_names to take, ExcludeSets those to leave out.
	Sets        []string `json:"sets,omitempty"`
	ExcludeSets []string `json:"exclude_sets,omitempty"`
	// SplitSets packs each set on its own, into shards that hold one set.
	SplitSets bool `json:"split_sets"`
	// Sample is the share of documents to take, HeldOut the share of those to
	// put apart. Which ones depends on Seed and the document itself.
	Sample  float64 `json:"sample"`
	HeldOut float64 `json:"heldout"`
	Seed    int64   `json:"seed"`
	// Dedup leaves out documents whose bytes are those of an earlier one.
	Dedup bool `json:"dedup"`
	// Limit is the number of documents to take at most; 0 takes all.
	Limit int64 `json:"limit"`

	// MaxBad is the share of records that may be unusable, MaxDamage the number
	// of files whose rest may be.
	MaxBad    float64 `json:"max_bad"`
	MaxDamage int     `json:"max_damage"`

	ShardBytes int64 `json:"shard_bytes"` // of a full shard
	Workers    int   `json:"workers"`     // goroutines that tokenize; 0: one a CPU
	JSON       bool  `json:"-"`           // write the manifest to standard output, not a table
}

// HeldoutFolder is where the held-out part goes.
const HeldoutFolder = "heldout"

// Default are the options that a command starts from.
func Default() Options {
	return Options{
		TextKey: "text", RowLength: 2048, Packing: data.Stream, Sample: 1, Seed: 42,
		MaxBad: 0.001, ShardBytes: 512 << 20,
	}
}

// check validates and completes the options.
func (o *Options) check() error {
	share := func(flag string, x float64) error {
		if !(x >= 0 && x <= 1) {
			return ui.Usagef("prepare: --%s: expected a share of 0 to 1 or 0%% to 100%%, found %g", flag, x)
		}
		return nil
	}
	for _, s := range []struct {
		flag  string
		value float64
	}{{"sample", o.Sample}, {"heldout", o.HeldOut}, {"max-bad", o.MaxBad}} {
		if err := share(s.flag, s.value); err != nil {
			return err
		}
	}
	switch {
	case len(o.Inputs) == 0:
		return ui.Usagef("prepare: expected files or folders to read")
	case o.Out == "":
		return ui.Usagef("prepare: --out: expected the folder to write")
	case o.Tokenizer == "":
		return ui.Usagef("prepare: --tokenizer: expected a tokenizer.json or a folder that holds one")
	case o.RowLength < 1 || o.RowLength > data.MaxRowLength:
		return ui.Usagef("prepare: --row-length: expected 1 to %d, found %d", data.MaxRowLength, o.RowLength)
	case o.Limit < 0 || o.MaxDamage < 0 || o.Workers < 0:
		return ui.Usagef("prepare: --limit, --max-damage and --workers: expected 0 or more")
	case o.ShardBytes < 1:
		return ui.Usagef("prepare: --shard-size: expected at least 1 byte, found %d", o.ShardBytes)
	case o.Sample == 0:
		return ui.Usagef("prepare: --sample: expected more than 0")
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return nil
}

// wants says whether documents of a set are taken.
func (o *Options) wants(set string) bool {
	return (len(o.Sets) == 0 || slices.Contains(o.Sets, set)) && !slices.Contains(o.ExcludeSets, set)
}

// shardRows is the number of rows in a full shard.
func (o *Options) shardRows() int64 {
	return max(1, o.ShardBytes/int64(2*(o.RowLength+1)))
}

// ParseShare reads "5%" or "0.05".
func ParseShare(s string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(s), "%")
	x, err := strconv.ParseFloat(number, 64)
	if percent {
		x /= 100
	}
	if err != nil || math.IsNaN(x) || x < 0 || x > 1 {
		return 0, fmt.Errorf("expected a share such as 5%% or 0.05, found %q", s)
	}
	return x, nil
}
