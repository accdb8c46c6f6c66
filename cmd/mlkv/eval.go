package main

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"mlkv/internal/config"
	"mlkv/internal/eval"
	"mlkv/internal/ui"
)

func newEvalCmd(a *app) *cobra.Command {
	var o eval.Options
	var name string
	cmd := &cobra.Command{
		Use:   "eval [CHECKPOINT...]",
		Short: "Score checkpoints on tasks and on held-out text",
		Long: `eval scores checkpoints as lm-evaluation-harness 0.4 does: arc_easy,
lambada_openai, piqa, sciq, boolq and wikitext from their official files, with
examples before the prompts where --shots asks for them; text, the perplexity of
texts in the same windows as wikitext's; and heldout, the loss on packed shards
or text. Without CHECKPOINT it takes the model that
uptrain left in the work folder, or else the converted one.

The output folder (WORK/eval, or --out) receives results.json in the harness's
form and, with --log-samples, samples_TASK.jsonl. While it runs, the folder
keeps every answer, so that a run that was stopped goes on when the same
command is given again. Several checkpoints have a folder each below --out.`,
		Example: `  mlkv eval --config configs/mlkv-6.yaml --data data/eval
  mlkv eval models/pythia-160m --data data/eval --tasks sciq,piqa --limit 100
  mlkv eval runs/mlkv-6/uptrain/model --tasks heldout --heldout data/val.jsonl.zst

  # how the figures stand against published ones, in standard errors
  mlkv eval models/pythia-160m --data data/eval --compare pythia-160m_0shot.json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config(cmd)
			if err != nil {
				return err
			}
			if o.Models, err = evalCheckpoints(c, args); err != nil {
				return err
			}
			if o.Names, err = evalNames(name, c.Name, args, o.Models); err != nil {
				return err
			}
			if o.Output == "" && c.Work != "" {
				o.Output = filepath.Join(c.Work, "eval")
			}
			o.Tasks, o.Data, o.Limit = c.Eval.Tasks, c.Eval.Data, c.Eval.Limit
			o.BatchTokens, o.LogSamples = c.Eval.BatchTokens, c.Eval.LogSamples
			o.Shots, o.Text = eval.Shots{Count: c.Eval.Shots, Split: c.Eval.ShotsSplit}, c.Eval.Text
			o.Heldout, o.RowLength = evalHeldout(c), c.Data.RowLength
			o.Device, o.Config = a.device(c), c
			o.Device.Precision = c.Eval.Precision
			return eval.Run(cmd.Context(), o, a.Streams)
		},
	}
	for _, b := range []struct{ key, flag, usage string }{
		{"work", "work", "`folder` of the row: uptrain/model or converted is read, eval/ is written"},
		{"device", "device", "auto, cpu, cuda or cuda:N"},
		{"eval.precision", "precision", "of a GPU: float32, or bf16, which is faster and nearly as exact"},
		{"threads", "threads", "CPU threads; 0 takes all"},
		{"eval.tasks", "tasks", "tasks: arc_easy, boolq, lambada_openai, piqa, sciq, wikitext, text, heldout"},
		{"eval.data", "data", "`folder` of task files"},
		{"eval.shots", "shots", "examples before every prompt, drawn as the harness draws them"},
		{"eval.shots_split", "shots-split", "`split` that examples come from (default: the harness's choice)"},
		{"eval.text", "text", "texts for the task text: .jsonl by row, others as a whole"},
		{"eval.heldout", "heldout", "packed shards or text for the task heldout"},
		{"eval.limit", "limit", "documents of each task, from its beginning; 0 takes all"},
		{"eval.batch_tokens", "batch-tokens", "tokens scored together; 0 takes what suits the device"},
		{"eval.log_samples", "log-samples", "write every document with the model's answers"},
	} {
		a.bind(cmd, b.key, b.flag, b.usage)
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Output, "out", "o", "", "output `folder` (default WORK/eval; none: results are only printed)")
	flags.StringVar(&name, "name", "", "what tables call the model (default: its configuration's or folder's name)")
	flags.StringVar(&o.Compare, "compare", "", "result `file` of the harness or of mlkv to hold the figures against")
	flags.BoolVar(&o.Force, "force", false, "replace the results that the output folder holds")
	flags.BoolVar(&o.JSON, "json", false, "print the results as JSON")
	return cmd
}

// evalNames are what the models are called: as --name says, as the configuration
// of the work folder says, or after a repository of the hub, whose snapshot lies
// in a folder named by its commit.
func evalNames(flag, configured string, args, models []string) ([]string, error) {
	names := make([]string, len(models))
	switch {
	case flag != "" && len(models) > 1:
		return nil, ui.Usagef("name: %d checkpoints cannot all be called %q; leave --name out", len(models), flag)
	case flag != "":
		names[0] = flag
	case len(args) == 0:
		names[0] = configured
	}
	for i, arg := range args {
		if names[i] == "" && models[i] != arg {
			names[i] = path.Base(arg)
		}
	}
	return names, nil
}

// evalCheckpoints are the folders to score: the arguments, or what the work
// folder holds.
func evalCheckpoints(c config.Config, args []string) ([]string, error) {
	if len(args) > 0 {
		return resolveAll(args)
	}
	if c.Work == "" {
		return nil, ui.Usagef("no checkpoint to score: give its folder, or name a work folder (work)")
	}
	for _, name := range []string{"uptrain/model", "converted"} {
		dir := filepath.Join(c.Work, filepath.FromSlash(name))
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return []string{dir}, nil
		}
	}
	return nil, ui.Usagef("work folder %s: expected uptrain/model or converted, found neither; run mlkv convert or mlkv uptrain first, or give a checkpoint", c.Work)
}

// evalHeldout is the text for the task heldout: its own, or where the task is
// asked for without any, that of training.
func evalHeldout(c config.Config) []string {
	if len(c.Eval.Heldout) > 0 || !slices.Contains(c.Eval.Tasks, eval.HeldoutTask) {
		return c.Eval.Heldout
	}
	return c.Data.Heldout
}
