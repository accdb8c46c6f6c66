package train

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/engine"
)

// TestFailure lets writing a checkpoint fail and goes on with the one before.
func TestFailure(t *testing.T) {
	o := testOptions(t)
	device := o.Device
	mustRun(t, o)
	want := content(t, o.Out)
	o.Out = filepath.Join(t.TempDir(), "run")
	lost := errors.New("the device is gone")
	wrap(&o, func(t engine.Trainer) engine.Trainer { return &unreadable{t, 0, 200, lost} })
	_, err := runTrain(t, t.Context(), o)
	if !errors.Is(err, lost) || !strings.Contains(err.Error(), "the last checkpoint is") || !strings.Contains(err.Error(), "step-4") {
		t.Fatalf("found %v, expected the cause and the last checkpoint", err)
	}
	o.Device = device
	mustRun(t, o)
	sameContent(t, content(t, o.Out), want)
}

// unreadable fails to be read from some call on.
type unreadable struct {
	engine.Trainer
	calls, from int
	err         error
}

func (u *unreadable) Read(name string, slot engine.Slot, dst []float32) error {
	if u.calls++; u.calls >= u.from {
		return u.err
	}
	return u.Trainer.Read(name, slot, dst)
}

// broken is a device that is gone from some call on.
type broken struct {
	engine.Trainer
	calls, from int
	err         error
}

func (b *broken) gone() bool { b.calls++; return b.calls >= b.from }

func (b *broken) Accumulate(ctx context.Context, batch engine.Batch) error {
	if b.gone() {
		return b.err
	}
	return b.Trainer.Accumulate(ctx, batch)
}

func (b *broken) Update(ctx context.Context, lr float64) (engine.Step, error) {
	if b.gone() {
		return engine.Step{}, b.err
	}
	return b.Trainer.Update(ctx, lr)
}

func (b *broken) Loss(ctx context.Context, batch engine.Batch) (float64, int, error) {
	if b.gone() {
		return 0, 0, b.err
	}
	return b.Trainer.Loss(ctx, batch)
}

func (b *broken) Read(name string, slot engine.Slot, dst []float32) error {
	if b.calls >= b.from {
		return b.err
	}
	return b.Trainer.Read(name, slot, dst)
}

// lateError tells of a failure when the result of an update is waited for, as a
// GPU does.
type lateError struct {
	late
	failed error
}

func (l *lateError) Enqueue(ctx context.Context, lr float64) error {
	if err := l.late.Enqueue(ctx, lr); err != nil {
		l.failed = err
	}
	return nil
}

func (l *lateError) Collect(ctx context.Context) (engine.Step, error) {
	if l.failed != nil {
		return engine.Step{}, l.failed
	}
	return l.late.Collect(ctx)
}

// TestDeviceLost takes the device away in a micro-batch, in an update or while
// held-out text is scored. The run ends with the cause, keeps its last checkpoint
// and goes on from there to the same bytes.
func TestDeviceLost(t *testing.T) {
	o := testOptions(t)
	device := o.Device
	mustRun(t, o)
	want := content(t, o.Out)
	lost := errors.New("the GPU was lost")
	for _, c := range []struct {
		from int // call of the trainer
		late bool
	}{{1, false}, {14, false}, {14, true}, {18, true}, {23, true}} {
		o.Out = filepath.Join(t.TempDir(), "run")
		wrap(&o, func(t engine.Trainer) engine.Trainer {
			b := &broken{Trainer: t, from: c.from, err: lost}
			if c.late {
				return &lateError{late: late{Trainer: b}}
			}
			return b
		})
		_, err := runTrain(t, t.Context(), o)
		if !errors.Is(err, lost) || !strings.Contains(err.Error(), "step") || !strings.Contains(err.Error(), "checkpoint") {
			t.Errorf("%+v: found %v, expected the cause, the step and the last checkpoint", c, err)
		}
		o.Device = device
		mustRun(t, o)
		sameContent(t, content(t, o.Out), want)
	}
}
