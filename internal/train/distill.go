package train

import (
	"mlkv/internal/checkpoint"
	"mlkv/internal/config"
	"mlkv/internal/engine"
	"mlkv/internal/ui"
)

// openTeacher opens the checkpoint whose logits are learned from, where the
// recipe gives it a weight, and checks it against model and shards.
func (in *inputs) openTeacher(c config.Config) (err error) {
	if c.Uptrain.Distill.Weight == 0 {
		return nil
	}
	dir := c.Uptrain.Distill.Teacher
	if dir == "" {
		dir = c.Base
	}
	if dir == "" {
		return ui.Usagef("uptrain.distill.weight is %g, but no teacher is given: name its checkpoint folder (uptrain.distill.teacher) or the base (base)", c.Uptrain.Distill.Weight)
	}
	if in.teacher, err = checkpoint.Open(dir); err != nil {
		return err
	}
	if err := in.teacher.CheckFinite(); err != nil {
		return err
	}
	cfg := in.teacher.Config()
	if cfg.VocabSize != in.model.VocabSize {
		return ui.Inputf("teacher %s: vocabulary: expected the model's %d (vocab_size of %s), found %d; a teacher's logits must be of the same tokens",
			dir, in.model.VocabSize, in.base.Dir(), cfg.VocabSize)
	}
	if in.length() > cfg.MaxPositions {
		return ui.Inputf("teacher %s: max_position_embeddings: expected at least the %d tokens of a training row, found %d",
			dir, in.length(), cfg.MaxPositions)
	}
	file, sum, err := in.tokenizerSum(dir, "the teacher "+dir)
	if err != nil {
		return err
	}
	if sum != "" && sum != in.loader.Tokenizer() {
		return ui.Inputf("teacher %s: tokenizer: expected the one of the shards (SHA-256 %s), found another in %s (SHA-256 %s)",
			dir, in.loader.Tokenizer(), file, sum)
	}
	return nil
}

// trainOptions are the engine's share of the recipe, with the teacher.
func (in *inputs) trainOptions(u config.Uptrain) engine.TrainOptions {
	o := trainOptions(u, in.length())
	if in.teacher != nil {
		o.Distill = &engine.Distill{
			Weight: u.Distill.Weight, Temperature: u.Distill.Temperature,
			Teacher: in.teacher.Config(), Weights: in.teacher,
		}
	}
	return o
}

// flops counts the floating-point operations of training on one token: those
// of the model and of the teacher's forward pass.
func (in *inputs) flops() float64 {
	n := in.model.TrainingFLOPs(in.length())
	if in.teacher != nil {
		n += in.teacher.Config().TrainingFLOPs(in.length()) / 3
	}
	return n
}
