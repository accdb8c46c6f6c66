package checkpoint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"mlkv/internal/model"
)

// The buffers that older GPT-NeoX files and the MLKV authors' carry beside the
// parameters: causal masks and rotary frequencies, which follow from the
// config.
var buffer = regexp.MustCompile(`^(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$`)

const (
	prefix = "gpt_neox."
	// lmHead is the name that transformers 5 gives to the output projection.
	lmHead = "lm_head.weight"
)

// canonicalName turns the name of a stored tensor into that of
// model.Config.Params; the fused query_key_value keeps its own.
func canonicalName(name string) string {
	switch {
	case name == lmHead:
		return model.EmbedOut
	case name == model.EmbedOut, strings.HasPrefix(name, prefix):
		return name
	case strings.HasPrefix(name, "layers."), strings.HasPrefix(name, "embed_in."), strings.HasPrefix(name, "final_layer_norm."):
		return prefix + name // a bare GPTNeoXModel was saved
	}
	return name
}

// origin is where a parameter lies in the files.
type origin struct {
	file   *File
	stored string // name in the file
	tensor Tensor
	// part is which of query, key and value (0, 1, 2) of a fused projection
	// is meant; whole for a tensor of its own.
	part int
}

const whole = -1

// fusedParts are the modules within query_key_value, in their order there.
var fusedParts = []string{model.Query, model.Key, model.Value}

// resolve finds every parameter of cfg among the files' tensors and checks its
// shape and type. Tensors that belong to no parameter are errors, for a model
// whose every weight is not understood is not understood.
func resolve(cfg model.Config, files []*File) (map[string]origin, error) {
	stored, err := gather(files)
	if err != nil {
		return nil, err
	}
	params := map[string]origin{}
	used := map[string]bool{}
	for _, p := range cfg.Params() {
		o, name, err := find(cfg, p, stored)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", describe(files), err)
		}
		if err := check(o, p, cfg); err != nil {
			return nil, fmt.Errorf("%s: tensor %s: %w", o.file.path, o.stored, err)
		}
		params[p.Name] = o
		used[name] = true
	}
	if cfg.TiedEmbeddings {
		used[model.EmbedOut] = true
	}
	var extra []string
	for name := range stored {
		if !used[name] {
			extra = append(extra, name)
		}
	}
	if len(extra) > 0 {
		slices.Sort(extra)
		o := stored[extra[0]]
		return nil, fmt.Errorf("%s: tensor %s: expected only what config.json calls for, found this and %d others", o.file.path, o.stored, len(extra)-1)
	}
	return params, nil
}

// gather lists the tensors of all files by canonical name, without buffers.
func gather(files []*File) (map[string]origin, error) {
	stored := map[string]origin{}
	for _, f := range files {
		for _, name := range f.Names() {
			if buffer.MatchString(name) {
				continue
			}
			key := canonicalName(name)
			if other, ok := stored[key]; ok {
				return nil, fmt.Errorf("%s: tensor %s: found a second time, as %s in %s", f.path, name, other.stored, other.file.path)
			}
			stored[key] = origin{f, name, f.tensors[name], whole}
		}
	}
	return stored, nil
}

// find returns a parameter's origin and the canonical name of the tensor that
// holds it: its own, or the layer's fused projection.
func find(cfg model.Config, p model.Param, stored map[string]origin) (origin, string, error) {
	o, ok := stored[p.Name]
	if ok {
		return o, p.Name, nil
	}
	if mayFuse(cfg, p.Layer) {
		for i, module := range fusedParts {
			kind, ok := strings.CutPrefix(p.Name, model.LayerName(p.Layer, module))
			if !ok {
				continue
			}
			fused := model.LayerName(p.Layer, model.QueryKeyValue) + kind
			if o, ok := stored[fused]; ok {
				o.part = i
				return o, fused, nil
			}
			return origin{}, "", fmt.Errorf("tensor %s: expected it or %s, found neither", p.Name, fused)
		}
	}
	return origin{}, "", fmt.Errorf("tensor %s: expected it with shape %v, found none", p.Name, p.Shape)
}

// mayFuse reports whether a layer's query, key and value can lie in one tensor:
// it owns both keys and values, of as many heads as queries.
func mayFuse(cfg model.Config, layer int) bool {
	return layer >= 0 && cfg.KVHeads == cfg.Heads && cfg.KVIntermediateSize == 0 &&
		cfg.Owner.Owns(layer) && cfg.ValueOwners().Owns(layer)
}

// check holds a tensor against the parameter that it is to be.
func check(o origin, p model.Param, cfg model.Config) error {
	want := slices.Clone(p.Shape)
	if o.part != whole {
		want[0] = 3 * cfg.HiddenSize
	}
	if !slices.Equal(o.tensor.Shape, want) {
		return fmt.Errorf("shape: expected %v from config.json, found %v", want, o.tensor.Shape)
	}
	if !o.tensor.DType.Weight() {
		return fmt.Errorf("dtype: expected F32, F16 or BF16, found %s", o.tensor.DType)
	}
	return nil
}

// describe names the files for a message about what they lack.
func describe(files []*File) string {
	if len(files) == 1 {
		return files[0].path
	}
	return fmt.Sprintf("%s and %d others", files[0].path, len(files)-1)
}
