package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
)

// late makes a trainer's results known one step later.
type late struct {
	engine.Trainer
	queue []engine.Step
}

func (l *late) Enqueue(ctx context.Context, lr float64) error {
	if len(l.queue) == 2 {
		return errors.New("three updates are queued")
	}
	s, err := l.Trainer.Update(ctx, lr)
	l.queue = append(l.queue, s)
	return err
}

func (l *late) Collect(context.Context) (engine.Step, error) {
	if len(l.queue) == 0 {
		return engine.Step{}, errors.New("nothing is queued")
	}
	s := l.queue[0]
	l.queue = l.queue[1:]
	return s, nil
}

func (l *late) Update(context.Context, float64) (engine.Step, error) {
	return engine.Step{}, errors.New("updated at once")
}

// Loss fails where results are not yet known, so that held-out text is scored
// by the weights of its step.
func (l *late) Loss(ctx context.Context, b engine.Batch) (float64, int, error) {
	if len(l.queue) > 0 {
		return 0, 0, fmt.Errorf("%d updates are queued", len(l.queue))
	}
	return l.Trainer.Loss(ctx, b)
}

func TestLate(t *testing.T) {
	o := testOptions(t)
	mustRun(t, o)
	want := content(t, o.Out)
	o.Out = filepath.Join(t.TempDir(), "run")
	wrap(&o, func(t engine.Trainer) engine.Trainer { return &late{Trainer: t} })
	mustRun(t, o)
	sameContent(t, content(t, o.Out), want)
}

func TestLateNaN(t *testing.T) {
	o := testOptions(t)
	wrap(&o, func(t engine.Trainer) engine.Trainer {
		return &late{Trainer: &poisoned{Trainer: t, bad: func(call int) bool { return call == 6 }}}
	})
	_, err := runTrain(t, t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "at step 6") || !strings.Contains(err.Error(), "nan-step-6.json") {
		t.Errorf("found %v, expected step 6 to be named", err)
	}
}

// TestGoldenSteps trains the golden batches in micro-batches of one row and
// compares losses and gradient norms with PyTorch's.
func TestGoldenSteps(t *testing.T) {
	for _, dir := range goldenRuns(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			g := readGolden(t, dir)
			base, err := checkpoint.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			length := len(g.Steps[0].InputIDs[0]) - 1
			trainer, err := cpu.Open(1).Trainer(base.Config(), base, engine.TrainOptions{
				Rows: 1, Length: length,
				Optimizer: engine.AdamW{
					Beta1: g.Betas[0], Beta2: g.Betas[1], Eps: g.Eps,
					WeightDecay: g.WeightDecay, Decay: engine.DecayAll, Clip: g.Clip,
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer trainer.Close()
			p := newPipeline(trainer, 1, length)
			worst, where := 0.0, ""
			for i, want := range g.Steps {
				s := &step{number: i + 1, rate: want.Rate}
				for _, row := range want.InputIDs {
					ids := make([]uint16, len(row))
					for k, id := range row {
						ids[k] = uint16(id)
					}
					s.rows = append(s.rows, ids)
				}
				if _, err := p.submit(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				for what, d := range map[string]float64{
					"loss":          math.Abs(s.result.Loss - want.Loss),
					"gradient norm": math.Abs(s.result.GradNorm - want.GradNorm),
				} {
					if d > worst {
						worst, where = d, fmt.Sprintf("%s of step %d", what, i)
					}
				}
			}
			t.Logf("largest deviation %.2g, %s", worst, where)
			if worst > 1e-4 {
				t.Errorf("largest deviation %.2g, %s: expected at most 1e-4", worst, where)
			}
		})
	}
}
