package train

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mlkv/internal/config"
	"mlkv/internal/engine"
	"mlkv/internal/outdir"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// run is one process's part of a run.
type run struct {
	options Options
	recipe  config.Uptrain
	in      *inputs
	folder  *folder
	store   store
	device  engine.Info
	trainer engine.Trainer
	pipe    *pipeline
	streams ui.Streams

	record   *runRecord
	metrics  *metricsLog
	events   *eventWriter // nil without TensorBoard
	progress *ui.Progress

	at    state // where the run is; its Metrics and Identity are set when it is saved
	saved int   // step of the last checkpoint, 0 for none
	skips int   // steps left out in a row
	clock clock
}

func newRun(o Options, in *inputs, f *folder, device engine.Info, t engine.Trainer, s ui.Streams) *run {
	u := o.Config.Uptrain
	return &run{
		options: o, recipe: u, in: in, folder: f, device: device, trainer: t, streams: s,
		store: store{f.file(checkpointsDir), u.KeepCheckpoints},
		pipe:  newPipeline(t, u.MicroRows, in.length()),
		at:    state{Heldout: -1, Schedule: in.schedule},
	}
}

// begin prepares the folder for a new run, or takes up the former one at its
// last checkpoint.
func (r *run) begin(former *runRecord) error {
	if former == nil {
		if err := r.beginNew(); err != nil {
			return fmt.Errorf("run folder %s: %w", r.folder.path, err)
		}
	} else if err := r.takeUp(former); err != nil {
		return fmt.Errorf("go on with the run in %s: %w", r.folder.path, err)
	}
	var err error
	if r.metrics, err = openMetrics(r.folder.file(metricsFile), r.at.Metrics); err != nil {
		return err
	}
	if r.recipe.TensorBoard {
		if r.events, err = createEvents(r.folder.file(eventsDir), r.at.Step, time.Now); err != nil {
			return fmt.Errorf("event file: %w", err)
		}
	}
	r.clock = newClock(r.at.Elapsed, r.at.Busy)
	r.progress = ui.NewProgress(r.streams, r.positions(r.in.schedule.Total), "uptrain", ui.Count("tokens"))
	r.progress.Start(r.positions(r.at.Step))
	return nil
}

// positions is the number of token positions in the first steps of the run.
func (r *run) positions(steps int) int64 {
	return int64(steps) * int64(r.recipe.Rows) * int64(r.in.length())
}

func (r *run) beginNew() error {
	if err := r.folder.clear(); err != nil {
		return err
	}
	rec := provenance.New(nil)
	rec.Device = deviceName(r.device)
	rec.Threads = r.device.Threads
	rec.Seed("order of rows", r.recipe.Seed)
	for path, sum := range r.in.sums {
		rec.Input(path, sum)
	}
	r.record = &runRecord{Record: rec, Identity: r.in.identity}
	return r.writeRecord()
}

// writeRecord writes the configuration and, last, run.json.
func (r *run) writeRecord() error {
	text, err := r.options.Config.YAML()
	if err != nil {
		return err
	}
	if err := outdir.WriteFile(r.folder.file(configFile), text); err != nil {
		return err
	}
	return r.folder.write(runFile, r.record)
}

func deviceName(d engine.Info) string {
	name := d.Device
	for _, s := range []string{d.Name, d.Backend} {
		if s != "" {
			name += ", " + s
		}
	}
	return name
}

func (r *run) takeUp(former *runRecord) error {
	r.record = former
	if err := r.store.clean(); err != nil {
		return err
	}
	st, found, err := r.store.find(r.in.identity.hash(), func(err error) {
		fmt.Fprintf(r.streams.Err, "warning: %v\n", err)
	})
	if err != nil {
		return err
	}
	if found {
		if err := readSnapshot(r.store.path(st.Step), r.trainer, st.Updates); err != nil {
			return err
		}
		if err := r.in.loader.Seek(st.Position); err != nil {
			return err
		}
		r.at, r.saved = st, st.Step
		fmt.Fprintf(r.streams.Err, "going on with the run in %s after step %d of %d\n", r.folder.path, st.Step, r.in.schedule.Total)
	} else {
		fmt.Fprintf(r.streams.Err, "the run in %s has no checkpoint yet; it begins at step 0\n", r.folder.path)
	}
	b := provenance.ReadBuild()
	r.record.Resumed = append(r.record.Resumed, resumption{
		Step: r.at.Step, Device: deviceName(r.device), Version: b.Version, Commit: b.Commit,
		Time: time.Now().UTC().Truncate(time.Second),
	})
	return r.writeRecord()
}

func (r *run) close() error {
	r.progress.Done()
	err := r.metrics.close()
	if r.events != nil {
		err = errors.Join(err, r.events.close())
	}
	return err
}

// train runs the remaining steps and writes the model.
func (r *run) train(ctx context.Context) (*Result, error) {
	for {
		if r.heldoutDue() {
			err := r.score(ctx)
			if ctx.Err() != nil {
				return nil, r.interrupted()
			}
			if err != nil {
				return nil, fmt.Errorf("%w%s", err, r.lastWhole())
			}
		}
		if r.saveDue() {
			if err := r.save(); err != nil {
				return nil, err
			}
		}
		if r.at.Step == r.in.schedule.Total {
			return r.finish()
		}
		if ctx.Err() != nil {
			return nil, r.interrupted()
		}
		// A step is finished though the run be interrupted.
		if err := r.step(context.WithoutCancel(ctx)); err != nil {
			return nil, fmt.Errorf("%w%s", err, r.lastWhole())
		}
	}
}

// lastWhole tells where a failed run can go on from.
func (r *run) lastWhole() string {
	if r.saved == 0 {
		return "; there is no checkpoint yet"
	}
	return "; the last checkpoint is " + r.store.path(r.saved)
}

func (r *run) heldoutDue() bool {
	step, every := r.at.Step, r.recipe.HeldoutEvery
	return r.in.held != nil && r.at.Heldout != step &&
		(step == 0 || step == r.in.schedule.Total || every > 0 && step%every == 0)
}

func (r *run) saveDue() bool {
	step, every := r.at.Step, r.recipe.CheckpointEvery
	return step != r.saved && (step == r.in.schedule.Total || every > 0 && step%every == 0)
}

// step draws the next rows and trains on them.
func (r *run) step(ctx context.Context) error {
	s := &step{number: r.at.Step + 1, rate: r.in.schedule.Rate(r.at.Step), from: r.at.Position}
	if err := r.draw(s); err != nil {
		return fmt.Errorf("step %d: %w", s.number, err)
	}
	stop := r.clock.work()
	done, err := r.pipe.submit(ctx, s)
	stop()
	if err != nil {
		return fmt.Errorf("step %d: %w", s.number, err)
	}
	r.at.Step++
	return r.finished(done)
}

// draw takes a step's rows from the loader.
func (r *run) draw(s *step) error {
	for range r.recipe.Rows {
		row, err := r.in.loader.Next()
		if err != nil {
			return err
		}
		if err := r.in.checkRow(row, r.options.Config.Data.Train); err != nil {
			return err
		}
		s.rows = append(s.rows, row)
	}
	r.at.Position = r.in.loader.Position()
	return nil
}

// settle waits until the results of all steps are known.
func (r *run) settle() error {
	stop := r.clock.work()
	done, err := r.pipe.drain(context.Background())
	stop()
	if err != nil {
		return fmt.Errorf("step %d: %w", r.at.Step, err)
	}
	return r.finished(done)
}

// finished takes the result of a step into account. A nil step is none.
func (r *run) finished(s *step) error {
	if s == nil {
		return nil
	}
	r.at.Tokens += int64(s.result.Tokens)
	r.clock.tokens += int64(s.result.Tokens)
	bad := notFinite(s.result)
	if bad || s.number%r.recipe.LogEvery == 0 || s.number == r.in.schedule.Total {
		if err := r.log(s, bad); err != nil {
			return err
		}
	}
	if !bad {
		r.skips = 0
		return nil
	}
	return r.notANumber(s)
}

// notANumber stops the run, or counts the step as left out.
func (r *run) notANumber(s *step) error {
	found := fmt.Sprintf("loss %v, gradient norm %v at step %d: expected finite numbers", s.result.Loss, s.result.GradNorm, s.number)
	r.skips++
	if r.recipe.OnNaN == nanSkip && r.skips <= maxSkips {
		r.progress.Printf("warning: %s; the update is left out", found)
		return nil
	}
	path, err := saveBadStep(r.folder.path, s)
	if err != nil {
		return errors.Join(errors.New(found), err)
	}
	if r.recipe.OnNaN == nanSkip {
		return fmt.Errorf("%s, for the %dth step in a row; its batch is in %s", found, r.skips, path)
	}
	return fmt.Errorf("%s; its batch is in %s; lower uptrain.learning_rate, or set uptrain.on_nan to %s to leave such steps out", found, path, nanSkip)
}

// save writes a checkpoint of the step at hand.
func (r *run) save() error {
	if err := r.settle(); err != nil {
		return err
	}
	// The checkpoint counts on the metrics before it.
	if err := r.metrics.sync(); err != nil {
		return err
	}
	st := r.at
	st.Updates = r.trainer.Steps()
	st.Elapsed, st.Busy = r.clock.times()
	st.Metrics = r.metrics.size
	st.Identity = r.in.identity.hash()
	err := r.store.save(st, func(dir string) error {
		return writeSnapshot(dir, r.trainer, r.in.base)
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, r.lastWhole())
	}
	r.saved = st.Step
	return nil
}

// interrupted saves where the run is. It is called between steps.
func (r *run) interrupted() error {
	if r.at.Step != r.saved {
		if err := r.save(); err != nil {
			return err
		}
	}
	where := "before its first step"
	if r.saved > 0 {
		where = "after step " + fmt.Sprint(r.saved) + ", which is saved"
	}
	r.progress.Printf("interrupted %s; the same command goes on with the run in %s", where, r.folder.path)
	return ui.ErrInterrupted
}

// finish writes the model and the result, which marks the run as finished.
func (r *run) finish() (*Result, error) {
	d, err := outdir.Create(r.folder.file(modelDir), true)
	if err != nil {
		return nil, err
	}
	defer d.Abort()
	if err := writeModel(d.Path(), r.trainer, r.in.base); err != nil {
		return nil, fmt.Errorf("model %s: %w", r.folder.file(modelDir), err)
	}
	if err := d.Commit(); err != nil {
		return nil, err
	}
	result, err := r.result()
	if err != nil {
		return nil, err
	}
	r.record.Finish()
	if err := r.folder.write(runFile, r.record); err != nil {
		return nil, err
	}
	return result, r.folder.write(resultFile, result)
}
