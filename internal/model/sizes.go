package model

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// shape is a row of EleutherAI's Pythia suite (arXiv 2304.01373, table 1).
type shape struct {
	name                  string
	layers, hidden, heads int
	vocab                 int
}

var suite = []shape{
	{"pythia-14m", 6, 128, 4, 50304},
	{"pythia-31m", 6, 256, 8, 50304},
	{"pythia-70m", 6, 512, 8, 50304},
	{"pythia-160m", 12, 768, 12, 50304},
	{"pythia-410m", 24, 1024, 16, 50304},
	{"pythia-1b", 16, 2048, 8, 50304},
	{"pythia-1.4b", 24, 2048, 16, 50304},
	{"pythia-2.8b", 32, 2560, 32, 50304},
	{"pythia-6.9b", 32, 4096, 32, 50432},
	{"pythia-12b", 36, 5120, 40, 50688},
}

// pythiaName are EleutherAI's names: pythia-160m-deduped, pythia-v1.1-160m.
var pythiaName = regexp.MustCompile(`^pythia-(?:v[\d.]+-)?([\d.]+[mb])(?:-deduped)?$`)

// Named is the model of the Pythia suite that a checkpoint's name or folder
// stands for; false for others.
func Named(name string) (Config, bool) {
	m := pythiaName.FindStringSubmatch(path.Base(name))
	if m == nil {
		return Config{}, false
	}
	c, err := Sized("pythia-" + m[1])
	return c, err == nil
}

// SizeNames lists the named sizes, smallest first.
func SizeNames() []string {
	var out []string
	for _, s := range suite {
		out = append(out, s.name)
	}
	return out
}

// Sized returns the configuration of a Pythia model by name, for example
// "pythia-160m".
func Sized(name string) (Config, error) {
	i := slices.IndexFunc(suite, func(s shape) bool { return s.name == name })
	if i < 0 {
		return Config{}, fmt.Errorf("size %q is unknown; known sizes are %s", name, strings.Join(SizeNames(), ", "))
	}
	s := suite[i]
	return Plain(s.vocab, s.hidden, s.layers, s.heads), nil
}

// Plain returns an unshared GPT-NeoX model with Pythia's habits: an MLP of four
// times the hidden size, rotary on a quarter of each head, parallel residual,
// 2048 positions.
func Plain(vocab, hidden, layers, heads int) Config {
	owners, _ := ContiguousOwners(layers, layers)
	return Config{
		VocabSize: vocab, HiddenSize: hidden, Layers: layers, Heads: heads,
		IntermediateSize: 4 * hidden, MaxPositions: 2048,
		RotaryPct: 0.25, RotaryBase: 10000, LayerNormEps: 1e-5,
		ParallelResidual: true, InitializerRange: 0.02,
		KVHeads: heads, Owner: owners, SharedKeyRotary: RotaryAfter,
	}
}
