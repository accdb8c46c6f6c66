package convert

import (
	"math"
	"strings"

	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/model"
)

// kvMLP makes a parameter of a two-layer key or value projection. As in the
// MLKV authors' convert_to_mlkv.py, the first neurons of the first layer hold
// the pooled projection, and all else is random: weights uniform within
// 1/sqrt(fan-in) (PyTorch's kaiming_uniform_ with a = sqrt(5)), biases uniform
// within 1. pooled is the projection's weight or bias, nil for the second
// layer.
func (p *plan) kvMLP(param model.Param, pooled []float32) []float32 {
	x := make([]float32, param.Size())
	bound := 1.0
	if strings.HasSuffix(param.Name, ".weight") {
		bound = 1 / math.Sqrt(float64(param.Shape[1]))
	}
	fresh.Uniform(x, bound, p.seed, param.Name)
	copy(x, pooled)
	return x
}
