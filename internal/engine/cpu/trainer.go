package cpu

import (
	"context"
	"fmt"
	"math"
	"slices"

	"gorgonia.org/gorgonia"
	"mlkv/internal/engine"
	"mlkv/internal/graph"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// trainer keeps weights, moments and, where a step has several micro-batches,
// accumulated gradients; the gradients of the latest micro-batch stay in the
// arena until they are needed.
type trainer struct {
	cfg    model.Config
	o      engine.TrainOptions
	params []model.Param
	slots  map[engine.Slot]map[string][]float32
	grads  *program
	loss   *program
	arena  []float32
	// teacher are the weights that TrainOptions.Distill names, nil for none.
	teacher map[string][]float32

	steps       int
	accumulated map[string][]float32 // nil until a step has two micro-batches
	passes      int                  // micro-batches since the last update
	sums        lossSums
	counted     int
}

// lossSums are the losses of a step, summed over its positions.
type lossSums struct{ objective, crossEntropy, divergence float64 }

// Trainer implements engine.Engine.
func (e *Engine) Trainer(cfg model.Config, w engine.Weights, o engine.TrainOptions) (engine.Trainer, error) {
	weights, err := load(cfg, w, true)
	if err != nil {
		return nil, err
	}
	t := &trainer{cfg: cfg, o: o, params: cfg.Params(), slots: map[engine.Slot]map[string][]float32{
		engine.SlotWeight: weights, engine.SlotFirst: zeros(cfg), engine.SlotSecond: zeros(cfg),
	}}
	if o.Distill != nil {
		if t.teacher, err = load(o.Distill.Teacher, o.Distill.Weights, false); err != nil {
			return nil, fmt.Errorf("teacher: %w", err)
		}
	}
	if t.grads, err = compileGradients(cfg, o, weights, t.teacher); err != nil {
		return nil, err
	}
	if t.loss, err = compileLoss(cfg, o.Rows, o.Length, weights); err != nil {
		return nil, err
	}
	t.arena = make([]float32, max(t.grads.plan.Elements, t.loss.plan.Elements))
	return t, nil
}

func zeros(cfg model.Config) map[string][]float32 {
	out := map[string][]float32{}
	for _, p := range cfg.Params() {
		out[p.Name] = make([]float32, p.Size())
	}
	return out
}

func nodes(n ...*gorgonia.Node) []*gorgonia.Node {
	return slices.DeleteFunc(n, func(n *gorgonia.Node) bool { return n == nil })
}

// compileGradients is the program of a micro-batch's losses and gradients.
func compileGradients(cfg model.Config, o engine.TrainOptions, params, teacher map[string][]float32) (*program, error) {
	shape := graph.Options{Rows: o.Rows, Length: o.Length, Output: graph.Gradients}
	if d := o.Distill; d != nil {
		shape.Distill = &graph.Distill{Teacher: d.Teacher, Weight: d.Weight, Temperature: d.Temperature}
	}
	g, err := graph.Build(cfg, shape)
	if err != nil {
		return nil, err
	}
	results := nodes(g.Loss)
	if g.Teacher != nil {
		results = append(results, g.CrossEntropy, g.Divergence)
	}
	for _, p := range cfg.Params() {
		results = append(results, g.Grads[p.Name])
	}
	prog, err := compile(g, params, results)
	if err != nil || g.Teacher == nil {
		return prog, err
	}
	for name, n := range g.Teacher.Params {
		prog.inputs[n] = op.Array{F32: teacher[name]}
	}
	return prog, nil
}

// Accumulate implements engine.Trainer.
func (t *trainer) Accumulate(_ context.Context, b engine.Batch) error {
	if err := b.Check(t.o, t.cfg.VocabSize); err != nil {
		return err
	}
	t.fold()
	t.grads.bind(t.grads.Tokens, b.Tokens)
	t.grads.bind(t.grads.Targets, b.Targets)
	t.grads.run(t.arena, nil)
	t.passes++
	t.addLosses()
	t.counted += b.Counted()
	return nil
}

// addLosses adds the losses in the arena to those of the step.
func (t *trainer) addLosses() {
	scalar := func(n *gorgonia.Node) float64 { return float64(t.grads.value(t.arena, n)[0]) }
	loss := scalar(t.grads.Loss)
	t.sums.objective += loss
	if t.teacher == nil {
		t.sums.crossEntropy += loss
		return
	}
	t.sums.crossEntropy += scalar(t.grads.CrossEntropy)
	t.sums.divergence += scalar(t.grads.Divergence)
}

// fold adds the gradients in the arena to the accumulated ones.
func (t *trainer) fold() {
	if t.passes == 0 {
		return
	}
	if t.accumulated == nil {
		t.accumulated = zeros(t.cfg)
	}
	for _, p := range t.params {
		sum, fresh := t.accumulated[p.Name], t.grads.value(t.arena, t.grads.Grads[p.Name])
		if t.passes == 1 {
			copy(sum, fresh)
		} else {
			op.Accumulate(sum, fresh)
		}
	}
}

// gradient is a parameter's summed gradient of the step.
func (t *trainer) gradient(name string) []float32 {
	if t.passes > 1 {
		return t.accumulated[name]
	}
	return t.grads.value(t.arena, t.grads.Grads[name])
}

// Update implements engine.Trainer. The norm is clipped as PyTorch's
// clip_grad_norm_ does.
func (t *trainer) Update(_ context.Context, lr float64) (engine.Step, error) {
	if t.counted == 0 {
		return engine.Step{}, fmt.Errorf("update: no position of the step has a target")
	}
	if t.passes > 1 {
		t.fold()
	}
	squares := 0.0
	for _, p := range t.params {
		squares += op.SquaredNorm(t.gradient(p.Name))
	}
	n := float64(t.counted)
	step := engine.Step{
		Loss:         t.sums.objective / n,
		CrossEntropy: t.sums.crossEntropy / n,
		Divergence:   t.sums.divergence / n,
		GradNorm:     math.Sqrt(squares) / n,
		Tokens:       t.counted,
	}
	if bad := step.Loss + step.GradNorm; math.IsNaN(bad) || math.IsInf(bad, 0) {
		t.Discard()
		return step, nil
	}
	scale := 1 / n
	if clip := t.o.Optimizer.Clip; clip > 0 {
		scale *= min(1, clip/(step.GradNorm+1e-6))
	}
	t.steps++
	for _, p := range t.params {
		opt := t.o.Optimizer
		update := op.AdamWStep{Rate: lr, Beta1: opt.Beta1, Beta2: opt.Beta2, Eps: opt.Eps, T: t.steps, GradScale: scale}
		if opt.Decay == engine.DecayAll || p.Decays() {
			update.Decay = opt.WeightDecay
		}
		update.Apply(t.slots[engine.SlotWeight][p.Name], t.slots[engine.SlotFirst][p.Name],
			t.slots[engine.SlotSecond][p.Name], t.gradient(p.Name))
	}
	t.Discard()
	return step, nil
}

// Discard implements engine.Trainer.
func (t *trainer) Discard() { t.passes, t.sums, t.counted = 0, lossSums{}, 0 }

// Loss implements engine.Trainer. It leaves accumulated gradients as they are.
func (t *trainer) Loss(_ context.Context, b engine.Batch) (float64, int, error) {
	if err := b.Check(t.o, t.cfg.VocabSize); err != nil {
		return 0, 0, err
	}
	if t.passes > 0 {
		return 0, 0, fmt.Errorf("loss: called between Accumulate and Update")
	}
	t.loss.bind(t.loss.Tokens, b.Tokens)
	t.loss.bind(t.loss.Targets, b.Targets)
	t.loss.run(t.arena, nil)
	return float64(t.loss.value(t.arena, t.loss.Loss)[0]), b.Counted(), nil
}

// Steps implements engine.Trainer.
func (t *trainer) Steps() int { return t.steps }

// Read implements engine.Trainer.
func (t *trainer) Read(name string, slot engine.Slot, dst []float32) error {
	src, ok := t.slots[slot][name]
	if !ok || len(src) != len(dst) {
		return fmt.Errorf("reading %s of %s: expected %d elements, found %d", slot, name, len(dst), len(src))
	}
	copy(dst, src)
	return nil
}

// Restore implements engine.Trainer.
func (t *trainer) Restore(steps int, src func(name string, slot engine.Slot) ([]float32, error)) error {
	for _, slot := range engine.Slots {
		for _, p := range t.params {
			data, err := src(p.Name, slot)
			if err != nil {
				return err
			}
			if len(data) != p.Size() {
				return fmt.Errorf("restoring %s of %s: expected %d elements, found %d", slot, p.Name, p.Size(), len(data))
			}
			copy(t.slots[slot][p.Name], data)
		}
	}
	t.steps = steps
	t.Discard()
	return nil
}

// Memory implements engine.Trainer.
func (t *trainer) Memory() engine.Memory {
	return engine.Memory{
		Weights:     bytes(t.slots[engine.SlotWeight]),
		Optimizer:   bytes(t.slots[engine.SlotFirst]) + bytes(t.slots[engine.SlotSecond]),
		Gradients:   bytes(t.accumulated),
		Activations: int64(len(t.arena)) * 4,
		Workspace:   workspace(t.cfg, t.o),
		Teacher:     bytes(t.teacher),
	}
}

// workspace is the memory of the head's logits.
func workspace(cfg model.Config, o engine.TrainOptions) int64 {
	if o.Distill != nil {
		return op.DistillWorkspace(cfg.VocabSize, o.Rows*o.Length)
	}
	return op.Workspace(cfg.VocabSize, o.Rows*o.Length)
}

// PlanTrainer implements engine.Engine. It counts accumulated gradients, which
// exist where a step has more than one micro-batch.
func (e *Engine) PlanTrainer(cfg model.Config, o engine.TrainOptions) (engine.Memory, error) {
	grads, err := compileGradients(cfg, o, nil, nil)
	if err != nil {
		return engine.Memory{}, err
	}
	weights := int64(cfg.Parameters()) * 4
	m := engine.Memory{
		Weights: weights, Optimizer: 2 * weights, Gradients: weights,
		Activations: int64(grads.plan.Elements) * 4,
		Workspace:   workspace(cfg, o),
	}
	if o.Distill != nil {
		m.Teacher = int64(o.Distill.Teacher.Parameters()) * 4
	}
	return m, nil
}

// Close implements engine.Trainer.
func (t *trainer) Close() error { return nil }
