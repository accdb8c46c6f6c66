package train

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// distillOptions are testOptions with a plain teacher.
func distillOptions(t *testing.T) Options {
	t.Helper()
	o := testOptions(t)
	o.Config.Base = writeBase(t, false)
	o.Config.Uptrain.Distill.Weight, o.Config.Uptrain.Distill.Temperature = 0.5, 2
	return o
}

// TestDistill trains with the base as teacher: metrics tell the parts of the
// loss, held-out loss stays the cross-entropy.
func TestDistill(t *testing.T) {
	plain := testOptions(t)
	o := distillOptions(t)
	plain.Checkpoint, plain.Config.Data = o.Checkpoint, o.Config.Data
	mustRun(t, plain)
	mustRun(t, o)
	metrics, err := ReadMetrics(filepath.Join(o.Out, metricsFile))
	if err != nil {
		t.Fatal(err)
	}
	without, err := ReadMetrics(filepath.Join(plain.Out, metricsFile))
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range metrics {
		if m.Heldout() {
			if m.Step == 0 && *m.HeldoutLoss != *without[i].HeldoutLoss {
				t.Errorf("held-out loss before the first step %g, without a teacher %g", *m.HeldoutLoss, *without[i].HeldoutLoss)
			}
			continue
		}
		if without[i].CrossEntropy != nil || without[i].KL != nil {
			t.Fatalf("step %d without a teacher: %+v", m.Step, without[i])
		}
		if m.CrossEntropy == nil || m.KL == nil || *m.KL <= 0 {
			t.Fatalf("step %d: %+v, expected the parts of the loss", m.Step, m)
		}
		if want := 0.5**m.CrossEntropy + 0.5*4**m.KL; math.Abs(*m.Loss-want) > 1e-5 {
			t.Errorf("step %d: loss %g, by its parts %g", m.Step, *m.Loss, want)
		}
		// Neither has trained before its first step.
		if m.Step == 1 && *m.CrossEntropy != *without[i].Loss {
			t.Errorf("step 1: cross-entropy %g, without a teacher %g", *m.CrossEntropy, *without[i].Loss)
		}
	}
	record, err := os.ReadFile(filepath.Join(o.Out, runFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"teacher weights (SHA-256)", "teacher config.json (SHA-256)", `"uptrain.distill.weight": "0.5"`} {
		if !strings.Contains(string(record), want) {
			t.Errorf("expected %s in %s", want, record)
		}
	}
}

// TestDistillOfNoWeight: with weight 0 the teacher is not even opened, and
// runs are those of a recipe without one.
func TestDistillOfNoWeight(t *testing.T) {
	o := testOptions(t)
	mustRun(t, o)
	want := content(t, o.Out)
	o.Out = filepath.Join(t.TempDir(), "run")
	o.Config.Uptrain.Distill.Teacher, o.Config.Uptrain.Distill.Temperature = "nowhere", 3
	mustRun(t, o)
	sameContent(t, content(t, o.Out), want)
}

// TestDistillInterrupted stops a run with a teacher and expects the bytes of
// the unbroken one after going on.
func TestDistillInterrupted(t *testing.T) {
	o := distillOptions(t)
	device := o.Device
	mustRun(t, o)
	want := content(t, o.Out)
	o.Out = filepath.Join(t.TempDir(), "run")
	for _, stop := range []int{2, 7} {
		ctx, cancel := context.WithCancel(t.Context())
		wrap(&o, func(t engine.Trainer) engine.Trainer { return &interruptAt{t, stop, cancel} })
		if _, err := runTrain(t, ctx, o); !errors.Is(err, ui.ErrInterrupted) {
			t.Fatalf("stop in step %d: found %v, expected to be interrupted", stop, err)
		}
	}
	o.Device = device
	for name, c := range map[string]struct {
		change func(o *Options)
		want   string
	}{
		"other weight":      {func(o *Options) { o.Config.Uptrain.Distill.Weight = 0.25 }, "uptrain.distill.weight is 0.25 here and 0.5 there"},
		"other temperature": {func(o *Options) { o.Config.Uptrain.Distill.Temperature = 1 }, "uptrain.distill.temperature is 1 here and 2 there"},
		"other teacher":     {func(o *Options) { o.Config.Uptrain.Distill.Teacher = o.Checkpoint }, "teacher weights (SHA-256)"},
		"no teacher":        {func(o *Options) { o.Config.Uptrain.Distill.Weight = 0 }, "uptrain.distill.weight is absent here and 0.5 there"},
	} {
		changed := o
		c.change(&changed)
		if _, err := runTrain(t, t.Context(), changed); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: found %v, expected a usage error with %q", name, err, c.want)
		}
	}
	// The same teacher by another path is the same run.
	moved := filepath.Join(t.TempDir(), "teacher")
	if err := os.CopyFS(moved, os.DirFS(o.Config.Base)); err != nil {
		t.Fatal(err)
	}
	o.Config.Uptrain.Distill.Teacher = moved
	mustRun(t, o)
	sameContent(t, content(t, o.Out), want)
}

// writeTeacher makes a plain checkpoint of the tests' vocabulary, changed.
func writeTeacher(t *testing.T, tokenizer string, change func(c *model.Config)) string {
	t.Helper()
	cfg := model.Plain(testVocab, 16, 2, 4)
	cfg.MaxPositions, cfg.RotaryPct = 2*testLength, 0.5
	change(&cfg)
	from, dir := t.TempDir(), t.TempDir()
	write(t, filepath.Join(from, "tokenizer.json"), tokenizer)
	if err := checkpoint.Write(dir, cfg, randomWeights{cfg, 2}, checkpoint.WriteOptions{Tokenizer: from}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBadTeachers(t *testing.T) {
	same := func(*model.Config) {}
	none := writeTeacher(t, testTokenizer, same)
	if err := os.Remove(filepath.Join(none, "tokenizer.json")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		teacher string
		code    int
		want    string
	}{
		"other vocabulary": {writeTeacher(t, testTokenizer, func(c *model.Config) { c.VocabSize++ }), ui.ExitInput, "vocabulary: expected the model's 48"},
		"other tokenizer":  {writeTeacher(t, testTokenizer+" ", same), ui.ExitInput, "tokenizer: expected the one of the shards"},
		"short positions":  {writeTeacher(t, testTokenizer, func(c *model.Config) { c.MaxPositions = testLength - 1 }), ui.ExitInput, "max_position_embeddings"},
		"no model":         {t.TempDir(), ui.ExitInput, "config.json"},
		"no folder":        {"", ui.ExitUsage, "uptrain.distill.teacher"},
	} {
		o := distillOptions(t)
		o.Config.Base, o.Config.Uptrain.Distill.Teacher = "", c.teacher
		for _, o.DryRun = range []bool{true, false} {
			_, err := runTrain(t, t.Context(), o)
			if ui.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, dry run %v: found %v, expected exit code %d with %q", name, o.DryRun, err, c.code, c.want)
			}
			if _, err := os.Stat(o.Out); err == nil {
				t.Errorf("%s: %s was left behind", name, o.Out)
			}
		}
	}
	o := distillOptions(t)
	o.Config.Uptrain.Distill.Teacher, o.Config.Uptrain.Steps = none, 1
	if out := mustRun(t, o); !strings.Contains(out.err.String(), "the tokenizer of the teacher") {
		t.Errorf("expected a warning that the teacher's tokenizer is not checked, found %q", out.err.String())
	}
}

func TestDistillDryRun(t *testing.T) {
	plan := func(o Options) (p Plan) {
		o.DryRun, o.JSON = true, true
		if err := json.Unmarshal(mustRun(t, o).out.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	o := distillOptions(t)
	p := plan(o)
	o.Config.Uptrain.Distill.Weight = 0
	without := plan(o)
	teacher, err := checkpoint.Open(o.Config.Base)
	if err != nil {
		t.Fatal(err)
	}
	defer teacher.Close()
	if want := int64(4 * teacher.Config().Parameters()); p.Memory.Teacher != want || p.Memory.Total() < without.Memory.Total()+want {
		t.Errorf("memory %+v, expected %d bytes of the teacher beside %+v", p.Memory, want, without.Memory)
	}
	if p.Teacher != o.Config.Base || without.Teacher != "" || p.FLOPs <= without.FLOPs {
		t.Errorf("teacher %q and %g operations, without one %q and %g", p.Teacher, p.FLOPs, without.Teacher, without.FLOPs)
	}
	o.Config.Uptrain.Distill.Weight, o.DryRun = 0.5, true
	if text := mustRun(t, o).out.String(); strings.Count(text, "teacher") != 2 {
		t.Errorf("expected the teacher's memory and folder in\n%s", text)
	}
}
