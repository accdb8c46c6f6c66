package main

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/config"
	"mlkv/internal/convert"
	"mlkv/internal/hub"
	"mlkv/internal/measure"
	"mlkv/internal/model"
	"mlkv/internal/report"
	"mlkv/internal/ui"
)

func newMeasureCmd(a *app) *cobra.Command {
	var o measure.Options
	cmd := &cobra.Command{
		Use:   "measure MODEL...",
		Short: "Take the memory and the speed of decoding",
		Long: `measure takes memory and speed as the MLKV paper does: a cache of random keys and
values, then 47 decode steps, for batches of 8, 16, 24 ... until the device's
memory is full. It also searches the largest batch and the longest context that
fit; that something does not fit is a result, not a failure.

MODEL is a checkpoint folder, or, with random weights, a YAML file of a row, a
YAML file of sizes as for init, or a size such as pythia-160m.

The output folder receives measurements.json, which report reads, and
measurements.csv with the columns of the paper's authors. A measurement that was
stopped goes on with the next model when the same command is given again.`,
		Example: `  mlkv measure configs/mha-144.yaml configs/mlkv-6.yaml --baseline MHA-144 --out runs/measure
  mlkv measure runs/mlkv-6/uptrain/model --lengths 512,2048 --batches 1,8,64
  mlkv measure pythia-410m --memory 24GiB --batches "" --context-batches 1,8`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config(cmd)
			if err != nil {
				return err
			}
			o.Models = nil
			for _, arg := range args {
				m, err := measuredModel(arg)
				if err != nil {
					return err
				}
				o.Models = append(o.Models, m)
			}
			m := c.Measure
			o.Lengths, o.Batches, o.Steps, o.Seconds = m.Lengths, m.Batches, m.Steps, m.Seconds
			o.CacheBits, o.Largest, o.ContextBatches, o.Seed = m.CacheBits, m.Largest, m.ContextBatches, m.Seed
			if o.Memory, err = m.MemoryBytes(); err != nil {
				return ui.Usagef("memory: %w", err)
			}
			o.Device, o.Config = a.device(c), c
			return measure.Run(cmd.Context(), o, a.Streams)
		},
	}
	for _, b := range []struct{ key, flag, usage string }{
		{"device", "device", "auto, cpu, cuda or cuda:N"},
		{"threads", "threads", "CPU threads; 0 takes all"},
		{"precision", "precision", "of a GPU: bf16 or float32"},
		{"measure.lengths", "lengths", "lengths of whole sequences in tokens"},
		{"measure.batches", "batches", "batches, one after another until memory is full"},
		{"measure.steps", "steps", "decode steps that are timed"},
		{"measure.seconds", "seconds", "run fewer steps where a measurement would take longer"},
		{"measure.cache_bits", "cache-bits", "size of a cached element: 8, 16, 32; 0: the device's own"},
		{"measure.memory", "memory", "what a model and its cache may take, as 40GiB; none: what is free, half of it on the CPU"},
		{"measure.largest", "largest", "search the largest batch that fits"},
		{"measure.context_batches", "context-batches", "batches whose longest context is searched"},
		{"measure.seed", "seed", "of random weights, cache and tokens"},
	} {
		a.bind(cmd, b.key, b.flag, b.usage)
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Baseline, "baseline", "", "`name` of the model that the others are compared with")
	flags.StringVarP(&o.Output, "out", "o", "", "output `folder` (default none: results are only printed)")
	flags.BoolVar(&o.Force, "force", false, "replace the results that the output folder holds")
	flags.BoolVar(&o.JSON, "json", false, "print the results as JSON")
	return cmd
}

// measuredModel finds out what an argument names.
func measuredModel(arg string) (measure.Model, error) {
	info, err := os.Stat(arg)
	switch {
	case err == nil && info.IsDir():
		name, err := report.ModelName(arg)
		return measure.Model{Name: name, Path: arg}, err
	case err == nil:
		return modelOfYAML(arg)
	case slices.Contains(model.SizeNames(), arg):
		cfg, err := model.Sized(arg)
		return measure.Model{Name: arg, Config: cfg}, err
	case strings.HasSuffix(arg, ".yaml"):
		return measure.Model{}, ui.Usagef("model: %w", err)
	}
	dir, err := hub.Resolve(arg)
	if err == nil && dir == arg {
		return measure.Model{}, ui.Usagef("model %s: expected a checkpoint folder, a YAML file or one of %s; found nothing of that name%s",
			arg, strings.Join(model.SizeNames(), ", "), ui.DidYouMean(arg, model.SizeNames()))
	}
	return measure.Model{Name: path.Base(arg), Path: dir}, err
}

// modelOfYAML reads the shape that a file of sizes has, or that a row's file
// makes of its base.
func modelOfYAML(file string) (measure.Model, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return measure.Model{}, ui.Usagef("model: %w", err)
	}
	m := measure.Model{Name: strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))}
	var sizes struct {
		VocabSize any `yaml:"vocab_size"`
	}
	if yaml.Unmarshal(data, &sizes) == nil && sizes.VocabSize != nil {
		m.Config, err = fresh.Sizes(file)
		return m, err
	}
	row, err := config.Resolve(config.Sources{File: file})
	if err != nil {
		return m, err
	}
	if row.Name != "" {
		m.Name = row.Name
	}
	base, err := baseShape(file, row.Base)
	if err != nil {
		return m, err
	}
	o := convert.Options{Source: row.Base}
	convertSettings(&o, row.Config)
	if m.Config, err = convert.Shape(base, o); err != nil {
		return m, ui.Usagef("%s: %w", file, err)
	}
	return m, nil
}

// baseShape is the architecture of a row's base: of its folder, or where there
// is none, what its name says.
func baseShape(file, base string) (model.Config, error) {
	if base == "" {
		return model.Config{}, ui.Usagef("%s: base: expected a checkpoint whose shape the row changes, found none", file)
	}
	data, err := os.ReadFile(filepath.Join(base, "config.json"))
	switch {
	case err == nil:
		cfg, err := checkpoint.ParseConfig(data)
		if err != nil {
			return cfg, ui.Inputf("%s: %w", filepath.Join(base, "config.json"), err)
		}
		return cfg, nil
	case !errors.Is(err, fs.ErrNotExist):
		return model.Config{}, ui.Inputf("%s: base: %w", file, err)
	}
	if cfg, ok := model.Named(base); ok {
		return cfg, nil
	}
	return model.Config{}, ui.Inputf("%s: base: expected a checkpoint folder, or the name of one of the Pythia suite, found %q", file, base)
}
