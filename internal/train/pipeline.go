package train

import (
	"context"

	"mlkv/internal/data"
	"mlkv/internal/engine"
)

// LateTrainer is a Trainer whose device runs on while the host prepares the
// next step: an update is queued and its result read one step later. A
// trainer that only implements engine.Trainer works as well.
type LateTrainer interface {
	engine.Trainer
	// Enqueue is Update without waiting for its result. At most two updates
	// are queued at a time.
	Enqueue(ctx context.Context, lr float64) error
	// Collect waits for the result of the oldest update in the queue.
	Collect(ctx context.Context) (engine.Step, error)
}

// step is one optimizer step on its way: what went in, and its result once it
// is known.
type step struct {
	number int           // updates after it, from 1
	rate   float64       // learning rate
	from   data.Position // of its first row
	rows   [][]uint16
	result engine.Step
}

// pipeline feeds steps to a trainer and returns them finished, in order.
type pipeline struct {
	trainer   engine.Trainer
	late      LateTrainer // nil where an update is waited for
	microRows int
	length    int
	flying    *step // queued with late, result not yet known
}

func newPipeline(t engine.Trainer, microRows, length int) *pipeline {
	late, _ := t.(LateTrainer)
	return &pipeline{trainer: t, late: late, microRows: microRows, length: length}
}

// submit runs the step's micro-batches and its update. It returns the step
// whose result became known by it: s, or the one before where the trainer runs
// late, nil if there is none.
func (p *pipeline) submit(ctx context.Context, s *step) (*step, error) {
	for at := 0; at < len(s.rows); at += p.microRows {
		batch := engine.NewBatch(s.rows[at:at+p.microRows], p.length)
		if err := p.trainer.Accumulate(ctx, batch); err != nil {
			return nil, err
		}
	}
	if p.late == nil {
		var err error
		s.result, err = p.trainer.Update(ctx, s.rate)
		return s, err
	}
	if err := p.late.Enqueue(ctx, s.rate); err != nil {
		return nil, err
	}
	done, err := p.drain(ctx)
	p.flying = s
	return done, err
}

// drain waits for the step whose result is not yet known; nil if there is none.
func (p *pipeline) drain(ctx context.Context) (*step, error) {
	s := p.flying
	if s == nil {
		return nil, nil
	}
	p.flying = nil
	var err error
	s.result, err = p.late.Collect(ctx)
	return s, err
}
