// Package train is the uptraining loop: it takes a GPT-NeoX or MLKV
// checkpoint and packed token shards through an engine.Trainer to a trained
// checkpoint. Learning rate, order of the data, held-out scoring, checkpoints,
// metrics and exact resumption are here; forward, backward, clipping and AdamW
// are the engine's.
//
// A run is a folder. It can be killed at any moment and goes on from its last
// checkpoint with the batches that an unbroken run would have seen, to the same
// bytes.
package train

import (
	"context"
	"errors"
	"fmt"

	"mlkv/internal/config"
	"mlkv/internal/engine"
	"mlkv/internal/ui"
)

// Options say what is trained, on what and where to.
type Options struct {
	// Config is the whole resolved configuration, which is kept in the run
	// folder. Its uptrain section is the recipe, its data section names the
	// shards.
	Config config.Config
	// Checkpoint is the folder to start from: any GPT-NeoX checkpoint, shared
	// or not.
	Checkpoint string
	// Out is the run folder.
	Out string
	// Device opens the engine. It is called after the inputs were checked.
	Device func() (engine.Engine, error)

	DryRun bool // check and plan, write nothing
	Resume bool // expect an unfinished run in Out
	Force  bool // begin anew whatever Out holds
	JSON   bool // result as JSON
}

// Run trains until the last step and writes the model, or goes on with a run
// that Out holds unfinished under the same recipe and inputs. When ctx is
// cancelled it finishes the step at hand, saves a checkpoint and returns
// ui.ErrInterrupted. The result goes to s.Out.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	if o.Resume && o.Force {
		return ui.Usagef("--resume and --force exclude each other: the one goes on with a run, the other begins anew")
	}
	if o.Checkpoint == "" {
		return ui.Usagef("no checkpoint to start from is given")
	}
	if o.Out == "" {
		return ui.Usagef("no run folder is given")
	}
	if err := o.Config.Validate(); err != nil {
		return err
	}
	in, err := openInputs(o)
	if err != nil {
		return err
	}
	defer in.close()
	for _, w := range in.warnings {
		fmt.Fprintf(s.Err, "warning: %s\n", w)
	}
	if o.DryRun {
		return dryRun(ctx, o, in, s)
	}

	f, err := openFolder(o.Out)
	if err != nil {
		return err
	}
	defer f.close()
	former, err := f.inspect(in.identity, mode{o.Resume, o.Force})
	if err != nil {
		return err
	}
	if err := checkDisk(f.path, in.diskNeeded(o.Config.Uptrain)); err != nil {
		return err
	}
	eng, err := o.Device()
	if err != nil {
		return err
	}
	defer eng.Close()
	trainer, err := eng.Trainer(in.model, in.base, in.trainOptions(o.Config.Uptrain))
	if err != nil {
		return fmt.Errorf("prepare training on %s: %w", eng.Info().Device, err)
	}
	defer trainer.Close()

	r := newRun(o, in, f, eng.Info(), trainer, s)
	if err := r.begin(former); err != nil {
		return err
	}
	result, err := r.train(ctx)
	if err := errors.Join(err, r.close()); err != nil {
		return err
	}
	return result.write(s.Out, o.JSON)
}

// trainOptions are the engine's share of the recipe, teacher aside.
func trainOptions(u config.Uptrain, length int) engine.TrainOptions {
	return engine.TrainOptions{
		Rows: u.MicroRows, Length: length,
		Optimizer: engine.AdamW{
			Beta1: u.Beta1, Beta2: u.Beta2, Eps: u.Eps,
			WeightDecay: u.WeightDecay, Decay: engine.Decay(u.Decay), Clip: u.Clip,
		},
	}
}
