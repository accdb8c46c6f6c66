package main

import (
	"github.com/spf13/cobra"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/export"
	"mlkv/internal/hub"
)

func newExportCmd(a *app) *cobra.Command {
	var o export.Options
	var format string
	cmd := &cobra.Command{
		Use:   "export CHECKPOINT --out DIR",
		Short: "Write a checkpoint in another form or element type",
		Long: `export writes a checkpoint anew and leaves the model as it is. Forms are

  huggingface  what transformers loads: a model that shares nothing as GPT-NeoX, any
               other with its own Python code beside the weights, by
               AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True)
  authors      what the code of the MLKV authors loads (pythia-mlkv). It knows evenly
               spread owners and borrows keys before rotary only; other
               models are refused

The tokenizer's files come along.`,
		Example: `  mlkv export runs/mlkv-6/model --format authors --out models/mlkv-6-authors
  mlkv export runs/mlkv-6/model --dtype bfloat16 --out models/mlkv-6`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Source, err = hub.Resolve(args[0]); err != nil {
				return err
			}
			o.Format = checkpoint.Format(format)
			return export.Run(cmd.Context(), o, a.Streams)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Output, "out", "o", "", "`folder` to write")
	flags.StringVar(&format, "format", string(checkpoint.HuggingFace), "form of the folder: huggingface or authors")
	flags.StringVar(&o.DType, "dtype", "", "type of the weights: float32, float16 or bfloat16 (default as they are)")
	flags.BoolVar(&o.Force, "force", false, "replace the output folder where it exists")
	flags.BoolVar(&o.JSON, "json", false, "print JSON")
	return cmd
}
