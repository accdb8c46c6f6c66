package train

import (
	"fmt"
	"path/filepath"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// optimizerFile holds AdamW's moments, float32 tensors named "exp_avg.NAME" and
// "exp_avg_sq.NAME" in the shapes of the parameters.
const optimizerFile = "optimizer.safetensors"

// moments are the slots that optimizerFile holds.
var moments = []engine.Slot{engine.SlotFirst, engine.SlotSecond}

func momentName(slot engine.Slot, param string) string { return string(slot) + "." + param }

// trainerWeights reads a trainer's weights as engine.Weights.
type trainerWeights struct {
	trainer engine.Trainer
	sizes   map[string]int
}

func newTrainerWeights(t engine.Trainer, cfg model.Config) trainerWeights {
	sizes := map[string]int{}
	for _, p := range cfg.Params() {
		sizes[p.Name] = p.Size()
	}
	return trainerWeights{t, sizes}
}

func (w trainerWeights) Float32(name string) ([]float32, error) {
	n, ok := w.sizes[name]
	if !ok {
		return nil, fmt.Errorf("parameter %s: not in the model", name)
	}
	x := make([]float32, n)
	return x, w.trainer.Read(name, engine.SlotWeight, x)
}

// writeModel writes the trainer's weights as a Hugging Face folder in float32,
// with the tokenizer files and the other members of config.json that base has.
func writeModel(dir string, t engine.Trainer, base *checkpoint.Checkpoint) error {
	cfg := base.Config()
	return checkpoint.Write(dir, cfg, newTrainerWeights(t, cfg), checkpoint.WriteOptions{
		DType: checkpoint.F32, Tokenizer: base.Dir(), Config: base.ConfigJSON(),
	})
}

// writeSnapshot writes all tensors of a trainer: the weights as a folder that
// every command reads, and the moments beside them.
func writeSnapshot(dir string, t engine.Trainer, base *checkpoint.Checkpoint) error {
	if err := writeModel(dir, t, base); err != nil {
		return err
	}
	var entries []checkpoint.Entry
	for _, p := range base.Config().Params() {
		for _, slot := range moments {
			entries = append(entries, checkpoint.Entry{
				Name: momentName(slot, p.Name), DType: checkpoint.F32, Shape: p.Shape,
				Source: func() (checkpoint.Tensor, error) {
					x := make([]float32, p.Size())
					err := t.Read(p.Name, slot, x)
					return checkpoint.FromFloat32(p.Shape, x), err
				},
			})
		}
	}
	return checkpoint.WriteSafetensors(filepath.Join(dir, optimizerFile), entries, nil)
}

// readSnapshot restores a trainer to what writeSnapshot wrote after the given
// number of updates.
func readSnapshot(dir string, t engine.Trainer, updates int) error {
	weights, err := checkpoint.Open(dir)
	if err != nil {
		return err
	}
	defer weights.Close()
	slots, err := checkpoint.OpenSafetensors(filepath.Join(dir, optimizerFile))
	if err != nil {
		return err
	}
	defer slots.Close()
	return t.Restore(updates, func(name string, slot engine.Slot) ([]float32, error) {
		if slot == engine.SlotWeight {
			return weights.Float32(name)
		}
		return slots.Float32(momentName(slot, name))
	})
}
