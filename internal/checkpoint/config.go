package checkpoint

import (
	"encoding/json"
	"fmt"

	"mlkv/internal/model"
)

// ParseConfig reads a config.json of Hugging Face's gpt_neox architecture,
// plain, in the form of the MLKV authors, or in ours, and validates it. Error
// messages begin with the name of the field.
//
// The authors' form has num_key_value_heads, num_key_value_layers and, with
// use_key_value_mlp, kv_intermediate_size. Ours adds shared_key_rotary,
// layer_map and, where values have owners of their own, value_layer_map. A
// config that names num_key_value_layers without shared_key_rotary is the
// authors', whose code shares keys before rotary.
func ParseConfig(data []byte) (model.Config, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return model.Config{}, fmt.Errorf("expected a JSON object: %w", err)
	}
	f := fields{raw: raw}
	f.architecture()
	c := model.Config{
		VocabSize:        f.integer("vocab_size"),
		HiddenSize:       f.integer("hidden_size"),
		Layers:           f.integer("num_hidden_layers"),
		Heads:            f.integer("num_attention_heads"),
		IntermediateSize: f.integer("intermediate_size"),
		MaxPositions:     f.integerOr("max_position_embeddings", 2048),
		LayerNormEps:     f.numberOr("layer_norm_eps", 1e-5),
		ParallelResidual: f.boolOr("use_parallel_residual", true),
		TiedEmbeddings:   f.boolOr("tie_word_embeddings", false),
		InitializerRange: f.numberOr("initializer_range", 0.02),
		BOS:              f.token("bos_token_id", 0),
		EOS:              f.token("eos_token_id", 0),
	}
	c.RotaryPct, c.RotaryBase = f.rotary()
	f.sharing(&c)
	if f.err != nil {
		return model.Config{}, f.err
	}
	return c, c.Validate()
}

// maxLayers bounds the tables made for a config before its weights are seen.
const maxLayers = 1 << 16

// sharing reads who owns keys and values, and how they are shared.
func (f *fields) sharing(c *model.Config) {
	if f.err != nil {
		return
	}
	if c.Layers < 1 || c.Layers > maxLayers {
		f.fail("num_hidden_layers", "expected 1 to %d, found %d", maxLayers, c.Layers)
		return
	}
	c.KVHeads = f.integerOr("num_key_value_heads", c.Heads)
	owners := f.integerOr("num_key_value_layers", c.Layers)
	var err error
	if c.Owner, err = model.ContiguousOwners(c.Layers, owners); err != nil {
		f.fail("num_key_value_layers", "expected 1 to %d (num_hidden_layers), found %d", c.Layers, owners)
		return
	}
	if f.has("layer_map") {
		c.Owner = f.ownerMap("layer_map", c.Layers)
		if n := c.Owner.Owners(); f.err == nil && f.has("num_key_value_layers") && n != owners {
			f.fail("layer_map", "expected %d owners (num_key_value_layers), found %d", owners, n)
		}
	}
	if f.has("value_layer_map") {
		*c = c.WithOwners(c.Owner, f.ownerMap("value_layer_map", c.Layers))
	}
	c.SharedKeyRotary = model.RotaryAfter
	if f.has("shared_key_rotary") {
		c.SharedKeyRotary = model.KeyRotary(f.text("shared_key_rotary"))
	} else if f.has("num_key_value_layers") {
		c.SharedKeyRotary = model.RotaryBefore
	}
	if f.boolOr("use_key_value_mlp", false) {
		c.KVIntermediateSize = f.integer("kv_intermediate_size")
		if f.err == nil && c.KVIntermediateSize <= 0 {
			f.fail("kv_intermediate_size", "expected a positive number, found %d", c.KVIntermediateSize)
		}
	}
}

// ownerMap reads a map of as many layers as the model has.
func (f *fields) ownerMap(name string, layers int) model.OwnerMap {
	text := f.text(name)
	if f.err != nil {
		return nil
	}
	m, err := model.ParseOwnerMap(text)
	switch {
	case err != nil:
		f.err = fmt.Errorf("%s: %w", name, err)
	case len(m) != layers:
		f.fail(name, "expected %d layers (num_hidden_layers), found %d", layers, len(m))
	}
	return m
}

// architecture refuses what is no GPT-NeoX model of the known form.
func (f *fields) architecture() {
	if got := f.text("model_type"); f.err == nil && got != plainType && got != sharedType {
		f.fail("model_type", "expected %q or %q, found %q", plainType, sharedType, got)
	}
	if got := f.textOr("hidden_act", "gelu"); f.err == nil && got != "gelu" {
		f.fail("hidden_act", "expected \"gelu\" (the exact form), found %q", got)
	}
	if !f.boolOr("attention_bias", true) && f.err == nil {
		f.fail("attention_bias", "expected true, found false")
	}
	if f.has("quantization_config") {
		f.fail("quantization_config", "expected none: quantized weights cannot be read")
	}
}

// rotary reads the share of a head that rotary turns and its base, in the
// names of GPT-NeoX (rotary_pct, rotary_emb_base) or in those of transformers 5
// (rope_parameters.partial_rotary_factor, .rope_theta).
func (f *fields) rotary() (pct, base float64) {
	pct = f.numberOr("rotary_pct", f.numberOr("partial_rotary_factor", 0.25))
	base = f.numberOr("rotary_emb_base", f.numberOr("rope_theta", 10000))
	for _, name := range []string{"rope_scaling", "rope_parameters"} {
		if !f.has(name) || f.err != nil {
			continue
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(f.raw[name], &members); err != nil {
			f.fail(name, "expected an object, found %.40s", f.raw[name])
			continue
		}
		inner := fields{raw: members}
		if kind := inner.textOr("rope_type", inner.textOr("type", "default")); inner.err == nil && kind != "default" {
			inner.fail("rope_type", "expected \"default\", found %q", kind)
		}
		pct = inner.numberOr("partial_rotary_factor", pct)
		base = inner.numberOr("rope_theta", base)
		if inner.err != nil {
			f.err = fmt.Errorf("%s.%w", name, inner.err)
		}
	}
	return pct, base
}
