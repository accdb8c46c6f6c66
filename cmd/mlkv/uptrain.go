package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mlkv/internal/config"
	"mlkv/internal/engine"
	"mlkv/internal/engine/device"
	"mlkv/internal/hub"
	"mlkv/internal/train"
	"mlkv/internal/ui"
)

func newUptrainCmd(a *app) *cobra.Command {
	var o train.Options
	var memory string
	cmd := &cobra.Command{
		Use:   "uptrain [CHECKPOINT]",
		Short: "Train a checkpoint on packed token shards",
		Long: `uptrain goes on training a GPT-NeoX checkpoint, converted or not, on the shards
that prepare made. CHECKPOINT is the folder to start from; without it, the
converted checkpoint in the work folder is taken (WORK/converted).

The run folder (WORK/uptrain, or --out) keeps checkpoints, metrics and at last
the trained model. SIGINT and SIGTERM finish the step at hand, save and exit
with 130. A run that was stopped in any way goes on when the same command is
given again, with the same batches and to the same bytes; one whose recipe or
inputs differ is refused.`,
		Example: `  mlkv uptrain --config configs/mlkv-6.yaml --dry-run
  mlkv uptrain --config configs/mlkv-6.yaml

  # does it fit on a GPU that is not here?
  mlkv uptrain --config configs/mlkv-6.yaml --dry-run --plan-memory 80GiB

  # the control that the paper lacks: the base itself under the same recipe
  mlkv uptrain models/pythia-160m --config configs/mha-144.yaml --out runs/control`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config(cmd)
			if err != nil {
				return err
			}
			o.Config = c
			if o.Checkpoint, err = uptrainCheckpoint(c, args); err != nil {
				return err
			}
			if err := resolveTeacher(&o.Config); err != nil {
				return err
			}
			if o.Out == "" && c.Work == "" {
				return ui.Usagef("no run folder: give --out, or name a work folder (work)")
			}
			if o.Out == "" {
				o.Out = filepath.Join(c.Work, "uptrain")
			}
			if o.Device, err = uptrainDevice(a.device(c), o.DryRun, memory); err != nil {
				return err
			}
			return train.Run(cmd.Context(), o, a.Streams)
		},
	}
	for _, b := range []struct{ key, flag, usage string }{
		{"work", "work", "`folder` of the row: converted/ is read, uptrain/ is written"},
		{"device", "device", "auto, cpu, cuda or cuda:N"},
		{"threads", "threads", "CPU threads; 0 takes all"},
		{"precision", "precision", "of a GPU: bf16 or float32"},
		{"uptrain.recompute", "recompute", "what a GPU computes again instead of keeping it: none, mlp or layer"},
		{"data.train", "train", "packed shards to train on, or folders of them"},
		{"data.heldout", "heldout", "packed shards of held-out text"},
		{"uptrain.steps", "steps", "optimizer steps; 0 takes --epochs"},
		{"uptrain.epochs", "epochs", "passes over the data where there are no --steps"},
		{"uptrain.rows", "rows", "rows in one step"},
		{"uptrain.micro_rows", "micro-rows", "rows in one pass; divides --rows"},
		{"uptrain.learning_rate", "learning-rate", "peak learning rate"},
		{"uptrain.schedule", "schedule", "cosine, linear or constant"},
		{"uptrain.warmup_ratio", "warmup-ratio", "share of the steps that warm up"},
		{"uptrain.distill.weight", "distill-weight", "share of the divergence from a teacher in the loss; 0: no teacher"},
		{"uptrain.distill.teacher", "distill-teacher", "checkpoint `folder` of the teacher (default the base)"},
		{"uptrain.seed", "seed", "of the order of rows"},
		{"uptrain.heldout_every", "heldout-every", "steps between held-out losses; 0: at the start and the end only"},
		{"uptrain.heldout_rows", "heldout-rows", "held-out rows to score; 0 takes all"},
		{"uptrain.checkpoint_every", "checkpoint-every", "steps between checkpoints; 0: at the end only"},
		{"uptrain.keep_checkpoints", "keep-checkpoints", "newest checkpoints to keep; 0 keeps all"},
		{"uptrain.on_nan", "on-nan", "what a loss that is not a number does: stop or skip"},
	} {
		a.bind(cmd, b.key, b.flag, b.usage)
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Out, "out", "o", "", "run `folder` (default WORK/uptrain)")
	flags.BoolVar(&o.DryRun, "dry-run", false, "check every input and print shapes, memory, steps and time; write nothing")
	flags.StringVar(&memory, "plan-memory", "", "with --dry-run: plan for a GPU of this `size`, such as 80GiB, that need not be here")
	flags.BoolVar(&o.Resume, "resume", false, "expect an unfinished run to go on with")
	flags.BoolVar(&o.Force, "force", false, "remove the run that the folder holds and begin anew")
	flags.BoolVar(&o.JSON, "json", false, "print the result as JSON")
	return cmd
}

// uptrainDevice opens the device that is asked for, or one that only plans where
// a memory is given.
func uptrainDevice(d device.Options, dryRun bool, memory string) (func() (engine.Engine, error), error) {
	if memory == "" {
		return func() (engine.Engine, error) { return device.Open(d) }, nil
	}
	if !dryRun {
		return nil, ui.Usagef("--plan-memory plans for a GPU that need not be here: add --dry-run")
	}
	size, err := ui.ParseBytes(memory)
	if err != nil || size <= 0 {
		return nil, ui.Usagef("--plan-memory: expected a size such as 80GiB, found %q", memory)
	}
	return func() (engine.Engine, error) { return device.Plan(d, size) }, nil
}

// uptrainCheckpoint is the folder to start from: the argument, or the converted
// checkpoint in the work folder. The unconverted base is never taken silently.
func uptrainCheckpoint(c config.Config, args []string) (string, error) {
	if len(args) > 0 {
		return hub.Resolve(args[0])
	}
	if c.Work == "" {
		return "", ui.Usagef("no checkpoint to start from: give its folder, or name a work folder (work) that holds converted/")
	}
	dir := filepath.Join(c.Work, "converted")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", ui.Usagef("checkpoint %s: does not exist; run mlkv convert first, or give a folder to start from (the base itself is the control)", dir)
	}
	return dir, nil
}

// resolveTeacher finds the teacher that the recipe names, or the base that
// stands for it, where it is a hub's name.
func resolveTeacher(c *config.Config) error {
	d := &c.Uptrain.Distill
	name := d.Teacher
	if name == "" {
		name = c.Base
	}
	if d.Weight == 0 || name == "" {
		return nil
	}
	folder, err := hub.Resolve(name)
	if err == nil && folder != name {
		d.Teacher = folder
	}
	return err
}
