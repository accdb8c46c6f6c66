package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mlkv/internal/data"
	"mlkv/internal/data/prepare"
	"mlkv/internal/hub"
	"mlkv/internal/ui"
)

func newPrepareCmd(a *app) *cobra.Command {
	o := prepare.Default()
	var rows bool
	shardMiB := o.ShardBytes >> 20
	cmd := &cobra.Command{
		Use:   "prepare INPUT...",
		Short: "Turn text into packed token shards",
		Long: `prepare tokenizes documents and packs them into rows of data.row_length tokens,
in a folder of shards that uptrain and eval read. An input is a .jsonl, .jsonl.zst,
.jsonl.gz, .txt, .parquet, .idx (Megatron, beside its .bin) or .rows file, or a
folder of them; with --glob a folder is a source tree whose files are texts.

The result depends on the inputs and options only, not on --workers. A
preparation that was interrupted goes on when the same command runs again.`,
		Example: `  mlkv prepare --tokenizer pythia-160m --out pile corpus/*.jsonl.zst
  mlkv prepare --tokenizer pythia-160m --out pile --sample 5% --packing authors pile/*.parquet
  mlkv prepare --tokenizer base --out go --heldout 2% --glob '**/*.go' "$(go env GOROOT)/src"
  mlkv prepare --tokenizer pythia-160m --out pile --rows pile-pythia/document.idx`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config(cmd)
			if err != nil {
				return err
			}
			if o.Tokenizer, err = hub.ResolveTokenizer(o.Tokenizer); err != nil {
				return err
			}
			o.Inputs, o.RowLength, o.ShardBytes = args, c.Data.RowLength, shardMiB<<20
			if o.Packing, err = data.ParsePacking(c.Data.Packing); err != nil {
				return ui.Usagef("data.packing: %w", err)
			}
			if rows {
				o.Packing = data.Rows
			}
			return prepare.Run(cmd.Context(), o, a.Streams)
		},
		DisableFlagsInUseLine: true,
	}
	a.bind(cmd, "data.row_length", "row-length", "tokens that a row predicts")
	a.bind(cmd, "data.packing", "packing", "stream (documents joined and cut) or authors (documents kept whole)")
	flags := cmd.Flags()
	flags.BoolVar(&rows, "rows", false, "take each sequence of tokenized inputs as a row, as it is")
	flags.StringVarP(&o.Tokenizer, "tokenizer", "t", "", "tokenizer.json, or a checkpoint `folder` that holds one")
	flags.StringVarP(&o.Out, "out", "o", "", "the `folder` to write")
	flags.BoolVar(&o.Force, "force", false, "replace an existing folder, and what another preparation of it left unfinished")
	flags.StringArrayVar(&o.Globs, "glob", nil, "`pattern` of the files to take from folders, ** for any folders, ! to refuse; may be repeated")
	flags.StringVar(&o.TextKey, "text-key", o.TextKey, "`field` of JSON or parquet that holds the text")
	flags.StringSliceVar(&o.Sets, "sets", nil, "take only documents of these pile_set_`names`")
	flags.StringSliceVar(&o.ExcludeSets, "exclude-sets", nil, "leave out documents of these pile_set_`names`")
	flags.BoolVar(&o.SplitSets, "split-sets", false, "keep sets in shards of their own")
	flags.Var(&shareValue{&o.Sample}, "sample", "`share` of documents to take, such as 5%")
	flags.Var(&shareValue{&o.HeldOut}, "heldout", "`share` of documents to put into the subfolder heldout")
	flags.Int64Var(&o.Seed, "seed", o.Seed, "seed of --sample and --heldout")
	flags.BoolVar(&o.Dedup, "dedup", false, "leave out documents that equal an earlier one")
	flags.Int64Var(&o.Limit, "limit", 0, "take at most so many `documents`")
	flags.Var(&shareValue{&o.MaxBad}, "max-bad", "`share` of records that may be unusable")
	flags.IntVar(&o.MaxDamage, "max-damage", 0, "number of `files` that may be damaged; what can be read of them is used")
	flags.Int64Var(&shardMiB, "shard-size", shardMiB, "size of a full shard in `MiB`")
	flags.IntVarP(&o.Workers, "workers", "j", 0, "goroutines that tokenize; 0: one a CPU")
	flags.BoolVar(&o.JSON, "json", false, "print the manifest")
	_ = cmd.MarkFlagRequired("tokenizer")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

// shareValue is a flag such as 5% or 0.05.
type shareValue struct{ share *float64 }

var _ pflag.Value = (*shareValue)(nil)

func (v *shareValue) String() string {
	if v.share == nil {
		return ""
	}
	return ui.FormatRate(100**v.share) + "%"
}

func (v *shareValue) Set(s string) (err error) {
	*v.share, err = prepare.ParseShare(s)
	return err
}

func (v *shareValue) Type() string { return "share" }
