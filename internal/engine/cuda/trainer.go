//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"context"
	"errors"
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// trainer keeps everything on the device. A micro-batch and an update are a
// CUDA graph each; the host only copies batches ahead and reads results late.
type trainer struct {
	dev  *device
	cfg  model.Config
	o    engine.TrainOptions
	plan *trainPlan
	// plain are the parameters as the model has them; the device's may be wider.
	plain []model.Param

	arenas []*gpu.Arena
	mem    trainMemory
	grads  *executor
	loss   *executor
	taught *frozen // the teacher's weights, nil without one

	// start is the first micro-batch of a step, micro a further one.
	start, micro, update, evaluate *gpu.Graph
	feed                           *feeder
	results                        *results

	counted int // positions of the micro-batches since the last update
	passes  int
	steps   int // updates whose result is known
}

// trainMemory are the addresses of what a trainer keeps.
type trainMemory struct {
	masters, first, second, gradients, weights gpu.Ptr
	arena, workspace                           gpu.Ptr
	tensors, parts                             gpu.Ptr
	state, result, held                        gpu.Ptr // states of kernels/tensors.cuh
}

// Trainer implements engine.Engine.
func (e *Engine) Trainer(cfg model.Config, w engine.Weights, o engine.TrainOptions) (engine.Trainer, error) {
	plan, err := e.planTrainer(cfg, o)
	if err != nil {
		return nil, err
	}
	t := &trainer{dev: e.dev, cfg: cfg, o: o, plan: plan, plain: cfg.Params()}
	if err := e.dev.gpu.Do(func() error { return t.open(w) }); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *trainer) open(w engine.Weights) error {
	t.grads = &executor{device: t.dev, p: t.plan.grads, arena: t.plan.gradArena, params: t.plan.params}
	t.grads.replace, _ = t.plan.grads.replaced()
	t.loss = &executor{device: t.dev, p: t.plan.loss, arena: t.plan.lossArena, params: t.plan.params}
	if err := t.checkMemory(); err != nil {
		return err
	}
	// Tuning needs memory of its own, which is free before the arenas are taken.
	for _, x := range []*executor{t.grads, t.loss} {
		if err := x.prepare(); err != nil {
			return err
		}
	}
	return inOrder(t.allocate, t.loadTeacher, t.reset, t.warmUp, t.reset, func() error { return t.loadWeights(w) }, t.capture)
}

// checkMemory reports a trainer that does not fit before kernels are compiled and
// products chosen for it.
func (t *trainer) checkMemory() error {
	free, total, err := gpu.FreeMemory()
	if err != nil {
		return err
	}
	if need := t.plan.memory().Total(); need > free {
		const gib = 1 << 30
		return fmt.Errorf("%w: a trainer of %d x %d tokens takes %.2f GiB, and %.2f of %.2f GiB are free; "+
			"use fewer rows in a micro-batch (uptrain.micro_rows), compute results again (uptrain.recompute), or free the GPU; --dry-run names the most rows",
			gpu.ErrOutOfMemory, t.o.Rows, t.o.Length, float64(need)/gib, float64(free)/gib, float64(total)/gib)
	}
	return nil
}

func (t *trainer) loadTeacher() (err error) {
	d := t.o.Distill
	if d == nil {
		return nil
	}
	if t.taught, err = t.dev.freeze(d.Teacher, d.Weights, t.plan.teacher); err != nil {
		return fmt.Errorf("teacher: %w", err)
	}
	t.grads.base.frozen = t.taught
	return nil
}

// warmUp runs everything once on an empty batch: the driver loads kernels when
// they are first launched, which it does not do while a graph is recorded.
func (t *trainer) warmUp() error {
	size := int64(t.o.Rows) * int64(t.o.Length) * 4
	return inOrder(
		func() error { return t.dev.stream.Zero(t.feed.tokens, size) },
		func() error { return t.dev.stream.Fill(t.feed.goals, ^uint32(0), size) }, // engine.Ignore
		func() error { return t.microBatch(true) },
		func() error { return t.microBatch(false) },
		func() error { return t.pass(t.loss, t.mem.held) },
		t.optimize,
		t.dev.stream.Synchronize,
	)
}

// allocate takes all memory at once: what is kept between steps, and the arena
// of activations.
func (t *trainer) allocate() error {
	p := t.plan
	tokens := roundUp(int64(t.o.Rows) * int64(t.o.Length) * 4)
	kept := 4*roundUp(p.weights) + roundUp(p.copies) + p.inputs + p.table + gpu.WorkspaceSize
	for _, size := range []int64{kept, p.activations} {
		a, err := gpu.NewArena(size)
		if err != nil {
			return fmt.Errorf("a trainer of %d x %d tokens: %w", t.o.Rows, t.o.Length, err)
		}
		t.arenas = append(t.arenas, a)
	}
	at := int64(0)
	take := func(size int64) gpu.Ptr {
		ptr := t.arenas[0].At(at, size)
		at += roundUp(size)
		return ptr
	}
	t.mem = trainMemory{masters: take(p.weights), first: take(p.weights), second: take(p.weights), gradients: take(p.weights),
		arena: t.arenas[1].At(0, p.activations), workspace: take(gpu.WorkspaceSize)}
	t.mem.weights = t.mem.masters
	if p.copies > 0 {
		t.mem.weights = take(p.copies)
	}
	var buffers [6]gpu.Ptr
	for i := range buffers {
		buffers[i] = take(tokens)
	}
	t.mem.tensors, t.mem.parts = take(int64(len(p.params.list))*tensorSize), take(p.blocks*8)
	t.mem.state, t.mem.result, t.mem.held = take(stateSize), take(stateSize), take(stateSize)
	for _, x := range []*executor{t.grads, t.loss} {
		x.base = bases{
			arena: t.mem.arena, weights: t.mem.weights, masters: t.mem.masters, gradients: t.mem.gradients, workspace: t.mem.workspace,
			inputs: map[*matrix]gpu.Ptr{x.p.tokens: buffers[0], x.p.targets: buffers[1]},
		}
	}
	var err error
	if t.feed, err = newFeeder(t.dev.stream, t.o.Rows*t.o.Length, buffers); err != nil {
		return err
	}
	t.results, err = newResults(t.dev.stream)
	return err
}

// capture records the micro-batch, the update and the held-out loss.
func (t *trainer) capture() (err error) {
	if t.start, err = gpu.Capture(t.dev.stream, func() error { return t.microBatch(true) }); err != nil {
		return err
	}
	if t.micro, err = gpu.Capture(t.dev.stream, func() error { return t.microBatch(false) }); err != nil {
		return err
	}
	if t.evaluate, err = gpu.Capture(t.dev.stream, func() error { return t.pass(t.loss, t.mem.held) }); err != nil {
		return err
	}
	t.update, err = gpu.Capture(t.dev.stream, t.optimize)
	return err
}

// microBatch computes gradients, of the first micro-batch of a step in the place of
// those of the step before.
func (t *trainer) microBatch(first bool) error {
	t.grads.first = first
	return t.pass(t.grads, t.mem.state)
}

// pass runs a program and adds its losses to a state.
func (t *trainer) pass(x *executor, state gpu.Ptr) error {
	if err := x.run(); err != nil {
		return err
	}
	return x.launch(x.headVariant(t.cfg.VocabSize), "loss_sum", gpu.Grid{Threads: [3]int{1024}},
		x.ptr(x.p.losses), x.optional(x.p.divergence != nil, func() *matrix { return x.p.divergence }), x.ptr(x.p.targets),
		state+stateLoss, state+stateDivergence, state+stateCounted, int32(t.o.Rows*t.o.Length))
}

// Accumulate implements engine.Trainer. It returns while the device works.
func (t *trainer) Accumulate(_ context.Context, b engine.Batch) error {
	if err := b.Check(t.o, t.cfg.VocabSize); err != nil {
		return err
	}
	err := t.dev.gpu.Do(func() error {
		if err := t.feed.put(b); err != nil {
			return err
		}
		if t.passes == 0 {
			return t.start.Launch(t.dev.stream)
		}
		return t.micro.Launch(t.dev.stream)
	})
	if err != nil {
		return err
	}
	t.passes++
	t.counted += b.Counted()
	return nil
}

// Update implements engine.Trainer.
func (t *trainer) Update(ctx context.Context, lr float64) (engine.Step, error) {
	if err := t.Enqueue(ctx, lr); err != nil {
		return engine.Step{}, err
	}
	return t.Collect(ctx)
}

// Enqueue is Update without waiting for its result.
func (t *trainer) Enqueue(_ context.Context, lr float64) error {
	if t.counted == 0 {
		return fmt.Errorf("update: no position of the step has a target")
	}
	t.counted, t.passes = 0, 0
	return t.dev.gpu.Do(func() error { return t.results.enqueue(t, lr) })
}

// Collect waits for the result of the oldest update in the queue.
func (t *trainer) Collect(context.Context) (engine.Step, error) {
	var s stateValues
	if err := t.dev.gpu.Do(func() (err error) {
		s, err = t.results.collect()
		return err
	}); err != nil {
		return engine.Step{}, err
	}
	t.steps = int(s.Steps)
	n := float64(s.Counted)
	step := engine.Step{Loss: s.Loss / n, CrossEntropy: s.Loss / n, Divergence: s.Divergence / n, GradNorm: float64(s.Norm), Tokens: int(s.Counted)}
	if d := t.o.Distill; d != nil {
		step.Loss = (1-d.Weight)*step.CrossEntropy + d.Weight*d.Temperature*d.Temperature*step.Divergence
	}
	return step, nil
}

// Discard implements engine.Trainer.
func (t *trainer) Discard() {
	// An error comes to light with the next call: the device is then lost.
	_ = t.dev.gpu.Do(t.discard)
	t.counted, t.passes = 0, 0
}

func (t *trainer) discard() error {
	if err := t.dev.stream.Zero(t.mem.gradients, t.plan.weights); err != nil {
		return err
	}
	return t.clearState(t.mem.state)
}

// Loss implements engine.Trainer.
func (t *trainer) Loss(_ context.Context, b engine.Batch) (float64, int, error) {
	if err := b.Check(t.o, t.cfg.VocabSize); err != nil {
		return 0, 0, err
	}
	if t.passes > 0 {
		return 0, 0, fmt.Errorf("loss: called between Accumulate and Update")
	}
	var s stateValues
	err := t.dev.gpu.Do(func() error {
		if err := errors.Join(t.clearState(t.mem.held), t.feed.put(b), t.evaluate.Launch(t.dev.stream)); err != nil {
			return err
		}
		var err error
		s, err = t.readState(t.mem.held)
		return err
	})
	return s.Loss, int(s.Counted), err
}

// Steps implements engine.Trainer.
func (t *trainer) Steps() int { return t.steps }

// Memory implements engine.Trainer.
func (t *trainer) Memory() engine.Memory { return t.plan.memory() }

// Close implements engine.Trainer.
func (t *trainer) Close() error {
	return t.dev.gpu.Do(func() error {
		errs := []error{t.dev.stream.Synchronize()}
		for _, g := range []*gpu.Graph{t.start, t.micro, t.update, t.evaluate} {
			if g != nil {
				errs = append(errs, g.Destroy())
			}
		}
		if t.feed != nil {
			errs = append(errs, t.feed.close())
		}
		if t.results != nil {
			errs = append(errs, t.results.close())
		}
		for _, a := range t.arenas {
			errs = append(errs, a.Free())
		}
		errs = append(errs, t.taught.free())
		return errors.Join(errs...)
	})
}
