package train

import (
	"context"
	"fmt"
)

// log records a finished step.
func (r *run) log(s *step, bad bool) error {
	rate := r.clock.lap()
	elapsed, _ := r.clock.times()
	m := Metric{
		Step: s.number, Loss: finite(s.result.Loss), Rate: finite(s.rate), GradNorm: finite(s.result.GradNorm), Skipped: bad,
		Tokens: r.at.Tokens, TokensPerSecond: rate, MFU: r.mfu(rate), Elapsed: elapsed,
	}
	values := []scalar{
		{"train/loss", s.result.Loss}, {"train/learning_rate", s.rate},
		{"train/grad_norm", s.result.GradNorm}, {"train/tokens_per_second", rate},
	}
	note := fmt.Sprintf("loss %.3f", s.result.Loss)
	if r.in.teacher != nil {
		m.CrossEntropy, m.KL = finite(s.result.CrossEntropy), finite(s.result.Divergence)
		values = append(values, scalar{"train/cross_entropy", s.result.CrossEntropy}, scalar{"train/kl", s.result.Divergence})
		note += fmt.Sprintf(", cross-entropy %.3f", s.result.CrossEntropy)
	}
	if err := r.metrics.add(m); err != nil {
		return err
	}
	if m.MFU > 0 {
		note += fmt.Sprintf(", MFU %.1f%%", 100*m.MFU)
	}
	r.progress.Note(note)
	r.progress.Set(r.positions(s.number))
	return r.scalars(s.number, values...)
}

// mfu is the model FLOPs utilization at a rate of tokens a second, 0 where the
// device's peak is not known.
func (r *run) mfu(tokensPerSecond float64) float64 {
	if r.device.Peak <= 0 {
		return 0
	}
	return tokensPerSecond * r.in.flops() / r.device.Peak
}

// scalar is a value under a tag of TensorBoard.
type scalar struct {
	tag   string
	value float64
}

// scalars writes values to the event file.
func (r *run) scalars(step int, values ...scalar) error {
	if r.events == nil {
		return nil
	}
	for _, v := range values {
		if err := r.events.scalar(step, v.tag, v.value); err != nil {
			return fmt.Errorf("event file: %w", err)
		}
	}
	return r.events.flush()
}

// score computes and records the held-out loss after the step at hand.
func (r *run) score(ctx context.Context) error {
	if err := r.settle(); err != nil {
		return err
	}
	loss, tokens, err := r.in.held.loss(ctx, r.trainer, r.recipe.MicroRows, r.in.length(), func(done float64) {
		r.progress.Note(fmt.Sprintf("held-out %.0f%%", 100*done))
		r.progress.Add(0)
	})
	if err != nil {
		return fmt.Errorf("held-out loss after step %d: %w", r.at.Step, err)
	}
	elapsed, _ := r.clock.times()
	err = r.metrics.add(Metric{
		Step: r.at.Step, HeldoutLoss: finite(loss), HeldoutTokens: tokens, Tokens: r.at.Tokens, Elapsed: elapsed,
	})
	if err != nil {
		return err
	}
	r.at.Heldout = r.at.Step
	r.progress.Note("")
	r.progress.Printf("step %d: held-out loss %.4f", r.at.Step, loss)
	return r.scalars(r.at.Step, scalar{"heldout/loss", loss})
}
