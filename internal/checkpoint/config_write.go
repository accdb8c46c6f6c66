package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"

	"mlkv/internal/model"
)

// EncodeConfig writes cfg as the config.json of a format. Members of source,
// another config.json, that do not speak of the model's shape are kept; source
// may be nil.
//
// A plain model in the form HuggingFace gets none of the members that speak of
// shared keys and values; a shared one always gets shared_key_rotary and
// layer_map, which mark it as ours, and a model type that transformers does not
// load without the model's own code. It gets value_layer_map where values have
// owners of their own. The form Authors always has the authors'
// members and none of ours.
func EncodeConfig(cfg model.Config, f Format, dtype DType, source []byte) ([]byte, error) {
	out := map[string]json.RawMessage{}
	if len(source) > 0 {
		if err := json.Unmarshal(source, &out); err != nil {
			return nil, fmt.Errorf("expected a JSON object: %w", err)
		}
	}
	for _, name := range sharingFields {
		delete(out, name)
	}
	var failed error
	set := func(name string, v any) {
		b, err := json.Marshal(v)
		failed = errors.Join(failed, err)
		out[name] = b
	}
	set("architectures", []string{"GPTNeoXForCausalLM"})
	set("model_type", plainType)
	set("hidden_act", "gelu")
	set("vocab_size", cfg.VocabSize)
	set("hidden_size", cfg.HiddenSize)
	set("num_hidden_layers", cfg.Layers)
	set("num_attention_heads", cfg.Heads)
	set("intermediate_size", cfg.IntermediateSize)
	set("max_position_embeddings", cfg.MaxPositions)
	set("layer_norm_eps", cfg.LayerNormEps)
	set("use_parallel_residual", cfg.ParallelResidual)
	set("tie_word_embeddings", cfg.TiedEmbeddings)
	set("initializer_range", cfg.InitializerRange)
	set("bos_token_id", cfg.BOS)
	set("eos_token_id", cfg.EOS)
	set("rotary_pct", cfg.RotaryPct)
	set("rotary_emb_base", cfg.RotaryBase)
	set("torch_dtype", dtype.TorchName())
	if _, ok := out["dtype"]; ok { // transformers 5's name for it
		set("dtype", dtype.TorchName())
	}
	if err := setRopeParameters(out, cfg); err != nil {
		return nil, err
	}
	if f != Authors && cfg.Shared() {
		set("architectures", []string{"MLKVForCausalLM"})
		set("model_type", sharedType)
		set("auto_map", autoMap)
		if _, ok := out["tokenizer_class"]; !ok { // transformers knows it by its own model types only
			set("tokenizer_class", "GPTNeoXTokenizer")
		}
		set("layer_map", cfg.Owner.String())
		if cfg.ValueOwner != nil {
			set("value_layer_map", cfg.ValueOwner.String())
		}
		set("shared_key_rotary", cfg.SharedKeyRotary)
	}
	if f == Authors || cfg.Shared() {
		set("num_key_value_heads", cfg.KVHeads)
		set("num_key_value_layers", cfg.Owner.Owners())
		set("use_key_value_mlp", cfg.KVIntermediateSize > 0)
		if cfg.KVIntermediateSize > 0 {
			set("kv_intermediate_size", cfg.KVIntermediateSize)
		}
	}
	if failed != nil {
		return nil, failed
	}
	b, err := json.MarshalIndent(out, "", "  ")
	return append(b, '\n'), err
}

// sharingFields are the members of config.json that say how keys and values
// are shared, and by which code.
var sharingFields = []string{
	"num_key_value_heads", "num_key_value_layers", "use_key_value_mlp", "kv_intermediate_size",
	"layer_map", "value_layer_map", "shared_key_rotary", "auto_map",
}

// The model types of config.json: plainType is transformers' own GPT-NeoX and
// what the authors' files say, sharedType our form of shared models.
const (
	plainType  = "gpt_neox"
	sharedType = "gpt_neox_mlkv"
)

// setRopeParameters brings transformers 5's members for rotary, where source
// has them, in line with cfg.
func setRopeParameters(out map[string]json.RawMessage, cfg model.Config) error {
	raw, ok := out["rope_parameters"]
	if !ok || string(raw) == "null" {
		return nil
	}
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		return fmt.Errorf("rope_parameters: expected an object: %w", err)
	}
	members["rope_theta"] = cfg.RotaryBase
	members["partial_rotary_factor"] = cfg.RotaryPct
	b, err := json.Marshal(members)
	if err != nil {
		return err
	}
	out["rope_parameters"] = b
	delete(out, "rope_theta")
	delete(out, "partial_rotary_factor")
	return nil
}
