// Package fresh makes models of random weights: checkpoints to train from
// nothing or to test with, initialised as Pythia was.
package fresh

import (
	"fmt"
	"math"
	"strings"

	"mlkv/internal/model"
)

// Weights are the random weights of a model, drawn when they are asked for.
// Equal configurations and seeds give equal weights, whatever the number of
// processors.
//
// The distributions are those of the Pythia configurations ("init_method":
// "small_init", "output_layer_init_method": "wang_init" in
// github.com/EleutherAI/pythia, models/160M/pythia-160m-deduped.yml) as GPT-NeoX
// defines them (megatron/model/init_functions.py): normal with standard
// deviation sqrt(2 / (5 hidden)), and 2 / (layers sqrt(hidden)) for the two
// projections of a layer that add to the residual. Biases are 0, the weights of
// layer norms 1.
type Weights struct {
	cfg    model.Config
	seed   int64
	params map[string]model.Param
}

// New returns the weights of cfg for a seed.
func New(cfg model.Config, seed int64) *Weights {
	w := &Weights{cfg: cfg, seed: seed, params: map[string]model.Param{}}
	for _, p := range cfg.Params() {
		w.params[p.Name] = p
	}
	return w
}

// Float32 draws a parameter.
func (w *Weights) Float32(name string) ([]float32, error) {
	p, ok := w.params[name]
	if !ok {
		return nil, fmt.Errorf("the model has no parameter %s", name)
	}
	x := make([]float32, p.Size())
	switch p.Kind {
	case model.Embedding, model.Matrix:
		Normal(x, w.deviation(p), w.seed, name)
	case model.Norm:
		if strings.HasSuffix(name, ".weight") {
			for i := range x {
				x[i] = 1
			}
		}
	}
	return x, nil
}

// deviation is the standard deviation of a matrix.
func (w *Weights) deviation(p model.Param) float64 {
	hidden := float64(w.cfg.HiddenSize)
	if p.Layer >= 0 {
		for _, module := range []string{model.AttentionOut, model.MLPOut} {
			if p.Name == model.LayerName(p.Layer, module)+".weight" {
				return 2 / float64(w.cfg.Layers) / math.Sqrt(hidden)
			}
		}
	}
	return math.Sqrt(2 / (5 * hidden))
}
