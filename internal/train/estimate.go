package train

import (
	"context"
	"fmt"
	"time"

	"mlkv/internal/engine"
	"mlkv/internal/ui"
)

// Limits of what a dry run measures.
const (
	patience = 15 * time.Second // longest expected time of the measured pass
	// slowest is the rate, in operations a second, assumed of a device whose
	// peak is not known.
	slowest = 1e11
)

// estimate measures one micro-batch and an update, or says why not.
func (p *Plan) estimate(ctx context.Context, eng engine.Engine, in *inputs, o Options) error {
	if eng.Info().Absent {
		p.StepSource = "not measured: " + engine.ErrAbsent.Error()
		return nil
	}
	rate := eng.Info().Peak
	if rate == 0 {
		rate = slowest
	}
	expected := func(rows int) time.Duration {
		return time.Duration(p.FLOPs / float64(p.Rows) * float64(rows) / rate * float64(time.Second))
	}
	rows := p.MicroRows
	if expected(rows) > patience {
		rows = 1
	}
	if expected(rows) > patience {
		p.StepSource = "not measured: one row alone is expected to take " + ui.FormatDuration(expected(rows))
		return nil
	}
	opts := in.trainOptions(o.Config.Uptrain)
	opts.Rows = rows
	trainer, err := eng.Trainer(in.model, in.base, opts)
	if err != nil {
		return err
	}
	defer trainer.Close()
	batch := make([][]uint16, rows)
	for i := range batch {
		if batch[i], err = in.loader.Next(); err != nil {
			return err
		}
	}
	pass, update, err := measure(ctx, trainer, engine.NewBatch(batch, in.length()))
	if err != nil {
		return err
	}
	p.StepSeconds = pass.Seconds()*float64(p.Rows)/float64(rows) + update.Seconds()
	p.StepSource = fmt.Sprintf("measured with one pass over %d of %d rows", rows, p.Rows)
	return nil
}

// measure times a pass and an update. The first of each is not counted: it
// makes what later ones find made.
func measure(ctx context.Context, t engine.Trainer, b engine.Batch) (pass, update time.Duration, err error) {
	for range 2 {
		start := time.Now()
		if err := t.Accumulate(ctx, b); err != nil {
			return 0, 0, err
		}
		pass = time.Since(start)
		start = time.Now()
		if _, err := t.Update(ctx, 0); err != nil {
			return 0, 0, err
		}
		update = time.Since(start)
	}
	return pass, update, nil
}
