//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// absent is a GPU that is not here: it can be planned for, not used.
type absent struct{ Engine }

// absentInfo is what a plan assumes of the chip, an H100. How much memory some
// kernels take for their sums depends on it a little.
var absentInfo = gpu.Info{Major: 9, SMs: 132}

// Plan is an engine that plans trainers for a GPU of the given memory in bytes.
// It needs no GPU; all else that it is asked for is an engine.ErrAbsent.
func Plan(memory int64, o Options) (engine.Engine, error) {
	dev := &device{info: absentInfo, elem: gpu.BFloat16}
	dev.info.Memory = memory
	if o.Float32 {
		dev.elem = gpu.Float32
	}
	return &absent{Engine{dev, o}}, nil
}

func (a *absent) Info() engine.Info {
	return engine.Info{Device: "a GPU that is not here", Absent: true, Free: a.dev.info.Memory, Total: a.dev.info.Memory}
}

func (a *absent) Trainer(model.Config, engine.Weights, engine.TrainOptions) (engine.Trainer, error) {
	return nil, engine.ErrAbsent
}

func (a *absent) Scorer(model.Config, engine.Weights) (engine.Scorer, error) {
	return nil, engine.ErrAbsent
}

func (a *absent) Decoder(model.Config, engine.Weights, engine.DecodeOptions) (engine.Decoder, error) {
	return nil, engine.ErrAbsent
}

func (a *absent) Collector(model.Config, engine.Weights, int, int) (engine.Collector, error) {
	return nil, engine.ErrAbsent
}

func (a *absent) Close() error { return nil }
