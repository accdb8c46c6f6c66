//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// trainPlan is a trainer's programs and what they need of the device's memory.
type trainPlan struct {
	grads, loss          *program
	gradArena, lossArena *arena
	params               *params
	weights, copies      int64 // bytes; copies 0 where products read the weights themselves
	activations, inputs  int64
	blocks               int64 // of the kernels that walk over all parameters
	table                int64
	teacher              *constants // nil for none
}

// Sizes of kernels/tensors.cuh.
const (
	tensorBlock = 8192 // elements that one block takes
	tensorSize  = 64
	stateSize   = 72
)

func (e *Engine) planTrainer(cfg model.Config, o engine.TrainOptions) (*trainPlan, error) {
	t := &trainPlan{}
	cfg = pad(cfg)
	shape := graph.Options{Rows: o.Rows, Length: o.Length, Output: graph.Gradients}
	if d := o.Distill; d != nil {
		shape.Distill = &graph.Distill{Teacher: pad(d.Teacher), Weight: d.Weight, Temperature: d.Temperature}
	}
	var err error
	if t.grads, t.gradArena, err = e.compileBeside(cfg, shape, e.mayLieBeside); err != nil {
		return nil, err
	}
	if d := shape.Distill; d != nil {
		t.teacher = placeConstants(d.Teacher, t.grads.joinedTaught, e.dev.sizes())
	}
	if t.loss, t.lossArena, err = e.compileBeside(cfg, graph.Options{Rows: o.Rows, Length: o.Length, Output: graph.Loss}, t.grads.liesBeside); err != nil {
		return nil, err
	}
	t.params = placeParams(cfg, t.grads.joined, t.grads.beside)
	t.weights = int64(t.params.size) * 4
	if e.dev.elem != gpu.Float32 {
		t.copies = int64(t.params.size) * e.dev.elem.Size()
	}
	t.activations = max(t.gradArena.size, t.lossArena.size)
	// Tokens and targets, in place and twice on their way.
	t.inputs = 3 * 2 * roundUp(int64(o.Rows)*int64(o.Length)*4)
	for _, p := range t.params.list {
		t.blocks += (int64(t.params.spans[p.Name]) + tensorBlock - 1) / tensorBlock
	}
	t.table = roundUp(int64(len(t.params.list))*tensorSize) + roundUp(t.blocks*8) + 3*roundUp(stateSize)
	return t, nil
}

func roundUp(n int64) int64 { return (n + alignment - 1) / alignment * alignment }

func (t *trainPlan) memory() engine.Memory {
	m := engine.Memory{
		Weights: t.weights + t.copies, Gradients: t.weights, Optimizer: 2 * t.weights,
		Activations: t.activations, Workspace: gpu.WorkspaceSize + t.inputs + t.table,
	}
	if t.teacher != nil {
		m.Teacher = t.teacher.size
	}
	return m
}

// PlanTrainer implements engine.Engine.
func (e *Engine) PlanTrainer(cfg model.Config, o engine.TrainOptions) (engine.Memory, error) {
	t, err := e.planTrainer(cfg, o)
	if err != nil {
		return engine.Memory{}, err
	}
	return t.memory(), nil
}

// mayLieBeside allows parameters to lie side by side unless results are computed
// again: attention's, which stays, would keep the MLP's beside it.
func (e *Engine) mayLieBeside([]string) bool {
	return e.o.Recompute == RecomputeNone || e.o.Recompute == ""
}
