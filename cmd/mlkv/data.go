package main

import (
	"github.com/spf13/cobra"

	"mlkv/internal/data/inspect"
	"mlkv/internal/hub"
)

func newDataCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "data",
		Short: "Look at packed token shards",
		Args:  cobra.ArbitraryArgs,
		RunE:  onlySubcommands,

		DisableFlagsInUseLine: true,
	}
	cmd.AddCommand(newDataInspectCmd(a))
	return cmd
}

func newDataInspectCmd(a *app) *cobra.Command {
	o := inspect.Options{Samples: 2}
	cmd := &cobra.Command{
		Use:   "inspect SHARD...",
		Short: "Say what packed shards hold and check every row",
		Long: `inspect prints the header of each shard, how long rows and documents are and,
with --tokenizer, some rows as text. It reads every row and checks its length,
its ids, its padding and the shard's checksum; a damaged shard ends with exit
code 3.`,
		Example: `  mlkv data inspect pile
  mlkv data inspect pile/shard-00000.rows --tokenizer pythia-160m --samples 5`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Paths = args
			if o.Tokenizer, err = hub.ResolveTokenizer(o.Tokenizer); err != nil {
				return err
			}
			return inspect.Run(cmd.Context(), o, a.Streams)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Tokenizer, "tokenizer", "t", "", "tokenizer.json, or a checkpoint `folder` that holds one, to decode samples")
	flags.IntVar(&o.Samples, "samples", o.Samples, "number of rows to decode")
	flags.BoolVar(&o.SkipCheck, "skip-check", false, "read headers only")
	flags.BoolVar(&o.JSON, "json", false, "print JSON")
	return cmd
}
