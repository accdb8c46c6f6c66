package train

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/ui"
)

// poisoned makes the result of some steps not finite, as a batch does that
// overflows: such an update leaves weights and moments as they were.
type poisoned struct {
	engine.Trainer
	calls int
	bad   func(call int) bool
}

func (p *poisoned) Update(ctx context.Context, lr float64) (engine.Step, error) {
	p.calls++
	if p.bad(p.calls) {
		p.Discard()
		return engine.Step{Loss: math.NaN(), GradNorm: math.Inf(1), Tokens: 10}, nil
	}
	return p.Trainer.Update(ctx, lr)
}

func TestNaNStops(t *testing.T) {
	o := testOptions(t)
	wrap(&o, func(t engine.Trainer) engine.Trainer {
		return &poisoned{Trainer: t, bad: func(call int) bool { return call == 6 }}
	})
	_, err := runTrain(t, t.Context(), o)
	if ui.ExitCode(err) != ui.ExitFailed {
		t.Fatalf("found %v, expected a failure", err)
	}
	for _, want := range []string{"NaN", "step 6", "nan-step-6.json", "step-4", "uptrain.on_nan"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("message %q does not speak of %s", err, want)
		}
	}
	text, err := os.ReadFile(filepath.Join(o.Out, "nan-step-6.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bad badStep
	if err := json.Unmarshal(text, &bad); err != nil {
		t.Fatal(err)
	}
	if bad.Step != 6 || len(bad.Rows) != 6 || bad.Position.Row != 5*6 || bad.Loss != "NaN" {
		t.Errorf("batch %+v: expected 6 rows from row 30 on", bad)
	}
	metrics, err := ReadMetrics(filepath.Join(o.Out, metricsFile))
	if err != nil {
		t.Fatal(err)
	}
	if last := metrics[len(metrics)-1]; last.Step != 6 || !last.Skipped || last.Loss != nil {
		t.Errorf("last record %+v, expected a skipped step 6", last)
	}

	// The run goes on past the step when asked to.
	o.Config.Uptrain.OnNaN = nanSkip
	wrap(&o, func(t engine.Trainer) engine.Trainer {
		return &poisoned{Trainer: t, bad: func(call int) bool { return call == 2 }}
	})
	out := mustRun(t, o)
	if !strings.Contains(out.err.String(), "after step 4 of 12") || !strings.Contains(out.err.String(), "the update is left out") {
		t.Errorf("log %q: expected to go on after step 4 and to leave an update out", out.err.String())
	}
}

func TestNaNForever(t *testing.T) {
	o := testOptions(t)
	o.Config.Uptrain.Steps = 100
	o.Config.Uptrain.OnNaN = nanSkip
	wrap(&o, func(t engine.Trainer) engine.Trainer {
		return &poisoned{Trainer: t, bad: func(call int) bool { return call > 3 }}
	})
	_, err := runTrain(t, t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "in a row") {
		t.Errorf("found %v, expected the run to be given up", err)
	}
}

// TestNaNSkipped lets the engine itself overflow and expects the weights to
// stay finite.
func TestNaNSkipped(t *testing.T) {
	o := testOptions(t)
	u := &o.Config.Uptrain
	u.OnNaN, u.WarmupRatio, u.Schedule, u.LearningRate = nanSkip, 0, Constant, 1e18
	u.Steps = 5
	o.Config.Data.Heldout = nil
	out := mustRun(t, o)
	if !strings.Contains(out.err.String(), "the update is left out") {
		t.Fatalf("log %q: expected an overflow", out.err.String())
	}
	c, err := checkpoint.Open(filepath.Join(o.Out, modelDir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.CheckFinite(); err != nil {
		t.Error(err)
	}
}
