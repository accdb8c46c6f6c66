package train

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/data"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

func TestRun(t *testing.T) {
	o := testOptions(t)
	o.JSON = true
	o.Config.Uptrain.TensorBoard = true
	out := mustRun(t, o)

	var res Result
	if err := json.Unmarshal(out.out.Bytes(), &res); err != nil {
		t.Fatalf("result: %v\n%s", err, out.out.String())
	}
	if res.Steps != 12 || res.Before == nil || res.After == nil || res.Best == nil {
		t.Fatalf("result %+v: expected 12 steps and held-out losses", res)
	}
	if !(res.After.Loss < res.Before.Loss-0.1) {
		t.Errorf("held-out loss %.4f before, %.4f after: expected it to fall", res.Before.Loss, res.After.Loss)
	}
	metrics, err := ReadMetrics(filepath.Join(o.Out, metricsFile))
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	tokens := int64(0)
	for _, m := range metrics {
		kind := "s"
		if m.Heldout() {
			kind = "h"
		} else if m.Tokens <= tokens {
			t.Errorf("step %d: %d tokens after %d", m.Step, m.Tokens, tokens)
		}
		tokens = m.Tokens
		order = append(order, kind+stepName(m.Step)[len(stepPrefix):])
	}
	if got, want := strings.Join(order, " "), "h0 s1 s2 s3 s4 s5 h5 s6 s7 s8 s9 s10 h10 s11 s12 h12"; got != want {
		t.Errorf("metrics %s, expected %s", got, want)
	}
	if tokens != res.Tokens {
		t.Errorf("result says %d tokens, metrics %d", res.Tokens, tokens)
	}
	for _, name := range []string{configFile, runFile, metricsFile, resultFile, "model/config.json", "model/tokenizer.json",
		"checkpoints/latest", "checkpoints/step-12/state.json", "checkpoints/step-8/optimizer.safetensors"} {
		if _, err := os.Stat(filepath.Join(o.Out, name)); err != nil {
			t.Errorf("run folder: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(o.Out, "checkpoints/step-4")); err == nil {
		t.Error("step-4 is kept, expected the newest two checkpoints")
	}
	if files, _ := filepath.Glob(filepath.Join(o.Out, eventsDir, "*tfevents*")); len(files) != 1 {
		t.Errorf("event files %q, expected one", files)
	}
	c, err := checkpoint.Open(filepath.Join(o.Out, modelDir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Config().Owner.String(); got != "0_0_2_0" {
		t.Errorf("model's layer map %s, expected 0_0_2_0", got)
	}
}

// TestPlain trains a model that shares nothing, whose file holds fused
// projections.
func TestPlain(t *testing.T) {
	o := testOptions(t)
	o.Checkpoint = writeBase(t, false)
	o.Config.Data.Heldout = nil
	out := mustRun(t, o)
	if !strings.Contains(out.err.String(), "no held-out shards") {
		t.Errorf("expected a warning that held-out text is missing, found %q", out.err.String())
	}
	if !strings.Contains(out.out.String(), "tokens/s") {
		t.Errorf("expected a table, found %q", out.out.String())
	}
}

// interruptAt cancels a context before an update.
type interruptAt struct {
	engine.Trainer
	step   int
	cancel func()
}

func (i *interruptAt) Update(ctx context.Context, lr float64) (engine.Step, error) {
	if i.Steps()+1 == i.step {
		i.cancel()
	}
	return i.Trainer.Update(ctx, lr)
}

// wrapped is an engine whose trainers are wrapped.
type wrapped struct {
	engine.Engine
	wrap func(engine.Trainer) engine.Trainer
}

func (w wrapped) Trainer(cfg model.Config, weights engine.Weights, o engine.TrainOptions) (engine.Trainer, error) {
	t, err := w.Engine.Trainer(cfg, weights, o)
	if err != nil {
		return nil, err
	}
	return w.wrap(t), nil
}

// wrap makes the options' engine wrap its trainers.
func wrap(o *Options, with func(engine.Trainer) engine.Trainer) {
	o.Device = func() (engine.Engine, error) { return wrapped{cpu.Open(1), with}, nil }
}

// TestInterrupted stops a run by its context at every step and expects the
// bytes of the unbroken run after going on.
func TestInterrupted(t *testing.T) {
	o := testOptions(t)
	device := o.Device
	unbroken := o.Out
	mustRun(t, o)
	want := content(t, unbroken)
	for _, every := range []int{0, 3} {
		o.Out = filepath.Join(t.TempDir(), "run")
		o.Config.Uptrain.CheckpointEvery = every
		for stop := 1; stop <= 12; stop += 2 {
			ctx, cancel := context.WithCancel(t.Context())
			wrap(&o, func(t engine.Trainer) engine.Trainer { return &interruptAt{t, stop, cancel} })
			o.Resume = stop > 1
			out, err := runTrain(t, ctx, o)
			if !errors.Is(err, ui.ErrInterrupted) {
				t.Fatalf("stop in step %d: found %v, expected to be interrupted\n%s", stop, err, out.err.String())
			}
			if _, err := os.Stat(filepath.Join(o.Out, checkpointsDir, stepName(stop))); err != nil {
				t.Errorf("stop in step %d: %v, expected the step to be finished and saved", stop, err)
			}
		}
		o.Device = device
		o.Resume = false // goes on by itself
		mustRun(t, o)
		sameContent(t, content(t, o.Out), want)
	}
}

func TestInterruptedBeforeTheFirstStep(t *testing.T) {
	o := testOptions(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runTrain(t, ctx, o); !errors.Is(err, ui.ErrInterrupted) {
		t.Fatalf("found %v, expected to be interrupted", err)
	}
	mustRun(t, o)
}

func TestRefused(t *testing.T) {
	finished := testOptions(t)
	finished.Config.Uptrain.Steps = 2
	mustRun(t, finished)

	stopped := testOptions(t)
	ctx, cancel := context.WithCancel(t.Context())
	wrap(&stopped, func(t engine.Trainer) engine.Trainer { return &interruptAt{t, 3, cancel} })
	if _, err := runTrain(t, ctx, stopped); !errors.Is(err, ui.ErrInterrupted) {
		t.Fatal(err)
	}
	stopped.Device = finished.Device

	foreign := t.TempDir()
	write(t, filepath.Join(foreign, "letter.txt"), "dear reader")

	for name, c := range map[string]struct {
		options Options
		change  func(o *Options)
		want    string
	}{
		"finished":           {finished, func(*Options) {}, "finished run"},
		"finished, resume":   {finished, func(o *Options) { o.Resume = true }, "finished run"},
		"other rate":         {stopped, func(o *Options) { o.Config.Uptrain.LearningRate = 1e-3 }, "uptrain.learning_rate is 0.001 here and 0.005 there"},
		"other seed":         {stopped, func(o *Options) { o.Config.Uptrain.Seed = 1 }, "uptrain.seed"},
		"other data":         {stopped, func(o *Options) { o.Config.Data.Train = []string{writeShard(t, 30, nil)} }, "data.train (SHA-256)"},
		"other checkpoint":   {stopped, func(o *Options) { o.Checkpoint = writeBase(t, false) }, "checkpoint weights (SHA-256)"},
		"other folder":       {stopped, func(o *Options) { o.Out = foreign }, "letter.txt"},
		"nothing to resume":  {stopped, func(o *Options) { o.Out = filepath.Join(t.TempDir(), "none"); o.Resume = true }, "--resume"},
		"resume and force":   {stopped, func(o *Options) { o.Resume, o.Force = true, true }, "exclude"},
		"no checkpoint":      {stopped, func(o *Options) { o.Checkpoint = "" }, "checkpoint"},
		"no shards":          {stopped, func(o *Options) { o.Config.Data.Train = nil }, "data.train"},
		"long warm-up":       {stopped, func(o *Options) { o.Config.Uptrain.WarmupSteps = 13 }, "uptrain.warmup_steps"},
		"rows do not divide": {stopped, func(o *Options) { o.Config.Uptrain.MicroRows = 4 }, "uptrain.micro_rows"},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.options
			c.change(&o)
			for _, o.DryRun = range []bool{false, true} {
				out, err := runTrain(t, t.Context(), o)
				if ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), c.want) {
					t.Errorf("found %v, expected a usage error with %q", err, c.want)
				}
				if out.out.Len() > 0 {
					t.Errorf("found output %q", out.out.String())
				}
			}
			if name == "nothing to resume" {
				if _, err := os.Stat(o.Out); err == nil {
					t.Errorf("%s was left behind", o.Out)
				}
			}
		})
	}
}

// TestOperational changes keys that do not decide numbers.
func TestOperational(t *testing.T) {
	o := testOptions(t)
	device := o.Device
	ctx, cancel := context.WithCancel(t.Context())
	wrap(&o, func(t engine.Trainer) engine.Trainer { return &interruptAt{t, 3, cancel} })
	if _, err := runTrain(t, ctx, o); !errors.Is(err, ui.ErrInterrupted) {
		t.Fatal(err)
	}
	o.Device = device
	u := &o.Config.Uptrain
	u.CheckpointEvery, u.KeepCheckpoints, u.LogEvery, u.TensorBoard, u.OnNaN = 5, 1, 2, true, nanSkip
	mustRun(t, o)
}

func TestForce(t *testing.T) {
	o := testOptions(t)
	o.Config.Uptrain.Steps = 3
	mustRun(t, o)
	write(t, filepath.Join(o.Out, "nan-step-2.json"), "{}")
	write(t, filepath.Join(o.Out, "notes.txt"), "kept")
	o.Force = true
	o.Config.Uptrain.LearningRate = 1e-3
	mustRun(t, o)
	if _, err := os.Stat(filepath.Join(o.Out, "nan-step-2.json")); err == nil {
		t.Error("a file of the former run is left")
	}
	if _, err := os.Stat(filepath.Join(o.Out, "notes.txt")); err != nil {
		t.Error("a file of the user's was removed")
	}
	metrics, err := ReadMetrics(filepath.Join(o.Out, metricsFile))
	if err != nil {
		t.Fatal(err)
	}
	if len(metrics) != 5 {
		t.Errorf("%d metrics, expected those of 3 steps and 2 held-out losses", len(metrics))
	}
}

func TestInUse(t *testing.T) {
	o := testOptions(t)
	f, err := openFolder(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if _, err := runTrain(t, t.Context(), o); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "in use") {
		t.Errorf("found %v, expected a usage error", err)
	}
}

func TestBadInputs(t *testing.T) {
	shard := func(change func(h *data.Header, row []uint16)) string { return writeShard(t, testRows, change) }
	beyond := shard(func(_ *data.Header, row []uint16) {
		if row != nil {
			row[3] = testVocab
		}
	})
	larger := shard(func(h *data.Header, _ []uint16) { h.VocabSize = testVocab + 1 })
	for name, c := range map[string]struct {
		change func(o *Options)
		want   string
	}{
		"larger vocabulary": {func(o *Options) { o.Config.Data.Train = []string{larger} }, "found one of 49"},
		"no such shard":     {func(o *Options) { o.Config.Data.Train = []string{"nowhere"} }, "nowhere"},
		"empty shard": {func(o *Options) {
			path := filepath.Join(t.TempDir(), "empty"+data.ShardSuffix)
			write(t, path, "")
			o.Config.Data.Train = []string{path}
		}, "empty"},
		"other tokenizer": {func(o *Options) {
			o.Config.Data.Train = []string{shard(func(h *data.Header, _ []uint16) { h.Tokenizer[0]++ })}
		}, "tokenizer"},
		"other tokenizer held out": {func(o *Options) {
			o.Config.Data.Heldout = []string{shard(func(h *data.Header, _ []uint16) { h.Tokenizer[0]++ })}
		}, "tokenizer"},
		"other row length": {func(o *Options) {
			o.Config.Data.Heldout = []string{shard(func(h *data.Header, _ []uint16) { h.RowLength = testLength - 1 })}
		}, "row length"},
		"long rows": {func(o *Options) {
			o.Config.Data.Train = []string{shard(func(h *data.Header, _ []uint16) { h.RowLength = 2*testLength + 1 })}
		}, "max_position_embeddings"},
		"beyond the vocabulary":           {func(o *Options) { o.Config.Data.Train = []string{beyond} }, "found 48"},
		"beyond the vocabulary, held out": {func(o *Options) { o.Config.Data.Heldout = []string{beyond} }, "found 48"},
		"no model":                        {func(o *Options) { o.Checkpoint = t.TempDir() }, "config.json"},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t)
			c.change(&o)
			for _, o.DryRun = range []bool{true, false} {
				_, err := runTrain(t, t.Context(), o)
				if ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), c.want) {
					t.Errorf("dry run %v: found %v, expected an input error with %q", o.DryRun, err, c.want)
				}
			}
		})
	}
}
