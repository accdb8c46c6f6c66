package main

import (
	"github.com/spf13/cobra"

	"mlkv/internal/checkpoint/inspect"
	"mlkv/internal/hub"
)

func newInspectCmd(a *app) *cobra.Command {
	var o inspect.Options
	cmd := &cobra.Command{
		Use:   "inspect CHECKPOINT",
		Short: "Show a checkpoint's architecture, owner map, parameters and cache size",
		Long: `inspect reads the config and the headers of a model folder, no weights, and shows
the architecture, which layer owns the keys and values of which, parameters by
part, and the size of the key/value cache beside that of multi-head,
grouped-query and multi-query attention in the same model.`,
		Example: `  mlkv inspect models/pythia-160m
  mlkv inspect runs/mlkv-6/converted --batch 1,32,1024 --length 4096 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Dir, err = hub.Resolve(args[0]); err != nil {
				return err
			}
			return inspect.Run(cmd.Context(), o, a.Streams)
		},
	}
	flags := cmd.Flags()
	flags.IntSliceVar(&o.Batch, "batch", []int{1, 8, 64, 256}, "batch `sizes` of the cache table")
	flags.IntVar(&o.Length, "length", 2048, "sequence `length` of the cache table")
	flags.BoolVar(&o.JSON, "json", false, "print JSON")
	return cmd
}
