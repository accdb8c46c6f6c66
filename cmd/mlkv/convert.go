package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"mlkv/internal/checkpoint"
	"mlkv/internal/config"
	"mlkv/internal/convert"
	"mlkv/internal/engine"
	"mlkv/internal/engine/device"
	"mlkv/internal/hub"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

func newConvertCmd(a *app) *cobra.Command {
	var o convert.Options
	cmd := &cobra.Command{
		Use:   "convert [CHECKPOINT]",
		Short: "Share key/value heads across heads and layers",
		Long: `convert reads a GPT-NeoX checkpoint in Hugging Face's layout and writes one whose
layers and heads share keys and values. The heads of a group are pooled into
one, or one is fitted to what they make of calibration text (--start absorb), and
the MLPs may grow by the parameters that attention lost. The folder
receives the tokenizer's files and convert.json, which says for every tensor
what it was made from.

CHECKPOINT is the base folder of the configuration, and the output WORK/converted,
where they are not given.`,
		Example: `  mlkv convert --config configs/mlkv-6.yaml
  mlkv convert models/pythia-160m --kv-layers 4 --kv-heads 12 --out models/mlkv-48
  mlkv convert models/pythia-160m --layer-map 0_0_2_2_4_4_6_6_8_8_10_10 --kv-heads 1 --out models/pairs

  # with values that have owners of their own
  mlkv convert models/pythia-160m --kv-layers 2 --value-layer-map 0_0_0_0_4_4_4_4_4_4_4_4 --kv-heads 1 --out models/separate

  # with shared heads fitted on text
  mlkv convert models/pythia-160m --kv-layers 6 --kv-heads 1 --start absorb --calibration data/train --out models/mlkv-6

  # as the MLKV authors' code converts, into a folder that it loads
  mlkv convert models/pythia-160m --kv-layers 6 --kv-heads 1 --preset authors --format authors --out models/authors-6

  # with the loss on a fixed batch before and after
  mlkv convert models/pythia-160m --kv-heads 1 --out models/mqa --check runs/data/heldout`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config(cmd)
			if err != nil {
				return err
			}
			if err := convertPaths(&o, c, args); err != nil {
				return err
			}
			convertSettings(&o, c)
			o.Observer = func() (engine.Engine, error) { return device.Open(a.device(c)) }
			o.Engine = func() (engine.Engine, error) { return device.Open(a.device(c)) }
			return convert.Run(cmd.Context(), o, a.Streams)
		},
	}
	for _, b := range []struct{ key, flag, usage string }{
		{"base", "base", "`folder` of the checkpoint to convert"},
		{"work", "work", "`folder` of the row: converted/ is written"},
		{"convert.kv_layers", "kv-layers", "layers that own keys and values, spread evenly; 0 keeps all"},
		{"convert.kv_heads", "kv-heads", "key/value heads in each of them; 0 keeps all"},
		{"convert.layer_map", "layer-map", "owner of each layer, as 0_0_2_2, instead of --kv-layers"},
		{"convert.value_layer_map", "value-layer-map", "owner of each layer's values, where another than that of its keys"},
		{"convert.start", "start", "how shared heads come about: pooling, or absorb with --calibration"},
		{"convert.calibration.path", "calibration", "packed `shards` or text that --start absorb fits on"},
		{"convert.calibration.rows", "calibration-rows", "rows of it; 0 takes 32 tokens for each channel of the hidden size"},
		{"convert.calibration.seed", "calibration-seed", "seed of the choice among packed rows"},
		{"convert.absorb.weighted", "absorb-weighted", "count errors of keys and values as queries and outputs feel them"},
		{"convert.absorb.refit", "absorb-refit", "rounds of fitting the output projections anew"},
		{"convert.pooling", "pooling", "how heads are pooled: mean, running, first"},
		{"convert.grow", "grow", "how MLPs grow: split, copy, none"},
		{"convert.shared_key_rotary", "shared-key-rotary", "where keys are shared: after or before rotary"},
		{"convert.key_value_mlp", "key-value-mlp", "two-layer key and value projections, partly random"},
		{"convert.seed", "seed", "seed of the random weights of --key-value-mlp"},
		{"convert.dtype", "dtype", "type of the weights written: float32, float16, bfloat16"},
		{"convert.format", "format", "form of the folder: huggingface, or authors for their code"},
		{"convert.preset", "preset", "authors: pooling running, grow copy, keys shared before rotary"},
		{"device", "device", "auto, cpu, cuda or cuda:N, for --check and --start absorb"},
		{"threads", "threads", "CPU threads for --check and --start absorb; 0 takes all"},
	} {
		a.bind(cmd, b.key, b.flag, b.usage)
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Output, "out", "o", "", "output `folder` (default WORK/converted)")
	flags.StringSliceVar(&o.Check, "check", nil, "packed `shards` whose first rows are scored before and after")
	flags.IntVar(&o.CheckRows, "check-rows", 8, "rows that --check scores")
	flags.BoolVar(&o.Force, "force", false, "replace the output folder where it exists")
	flags.BoolVar(&o.JSON, "json", false, "print the report, with every tensor, as JSON")
	return cmd
}

// convertSettings fills in how the configuration converts.
func convertSettings(o *convert.Options, c config.Config) {
	o.KVLayers, o.KVHeads, o.LayerMap = c.Convert.KVLayers, c.Convert.KVHeads, c.Convert.LayerMap
	o.ValueLayerMap = c.Convert.ValueLayerMap
	o.Pooling, o.Grow = c.Convert.Pooling, c.Convert.Grow
	o.SharedKeyRotary = model.KeyRotary(c.Convert.SharedKeyRotary)
	o.KeyValueMLP, o.Seed, o.DType = c.Convert.KeyValueMLP, c.Convert.Seed, c.Convert.DType
	o.Format, o.Start = checkpoint.Format(c.Convert.Format), c.Convert.Start
	o.Calibration = convert.Calibration{
		Paths: c.Convert.Calibration.Path, Rows: c.Convert.Calibration.Rows, Seed: c.Convert.Calibration.Seed,
		RowLength: c.Data.RowLength,
	}
	o.Weighted, o.Refit = c.Convert.Absorb.Weighted, c.Convert.Absorb.Refit
}

// convertPaths fills in the folders that the command line left to the
// configuration.
func convertPaths(o *convert.Options, c config.Config, args []string) error {
	o.Source = c.Base
	if len(args) > 0 {
		o.Source = args[0]
	}
	if o.Source == "" {
		return ui.Usagef("no checkpoint to convert: give its folder, or name one in the configuration (base)")
	}
	var err error
	if o.Source, err = hub.Resolve(o.Source); err != nil {
		return err
	}
	if o.Output == "" {
		if c.Work == "" {
			return ui.Usagef("no output folder: give --out, or name a work folder in the configuration (work)")
		}
		o.Output = filepath.Join(c.Work, "converted")
	}
	return nil
}
