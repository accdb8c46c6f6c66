package main

import (
	"strings"

	"github.com/spf13/cobra"

	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/hub"
	"mlkv/internal/model"
)

func newInitCmd(a *app) *cobra.Command {
	var o fresh.Options
	cmd := &cobra.Command{
		Use:   "init SIZE --out DIR",
		Short: "Make a checkpoint of random weights",
		Long: `init writes a model folder of random weights, drawn as Pythia's were. SIZE is
one of
  ` + strings.Join(model.SizeNames(), ", ") + `
or a YAML file whose keys are those of config.json: vocab_size, hidden_size,
num_hidden_layers and num_attention_heads must be there, the others have
Pythia's values. Equal sizes and seeds give equal files, whatever the number of
processors.`,
		Example: `  mlkv init pythia-160m --out models/random-160m --seed 1
  mlkv init small.yaml --out models/small --tokenizer models/pythia-160m`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Size = args[0]
			if o.Tokenizer, err = hub.ResolveTokenizer(o.Tokenizer); err != nil {
				return err
			}
			return fresh.Run(cmd.Context(), o, a.Streams)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Output, "out", "o", "", "`folder` to write")
	flags.Int64Var(&o.Seed, "seed", 42, "seed of the weights")
	flags.StringVar(&o.DType, "dtype", "float32", "type of the weights: float32, float16 or bfloat16")
	flags.StringVar(&o.Tokenizer, "tokenizer", "", "tokenizer.json, or a `folder` that holds one, to copy")
	flags.BoolVar(&o.Force, "force", false, "replace the output folder where it exists")
	return cmd
}
