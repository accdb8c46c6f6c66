package checkpoint

import (
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"

	"mlkv/internal/model"
)

// neox is the config.json of a Pythia model as transformers 4 writes it.
var neox = map[string]any{
	"architectures": []string{"GPTNeoXForCausalLM"}, "bos_token_id": 0, "eos_token_id": 0,
	"hidden_act": "gelu", "hidden_size": 24, "initializer_range": 0.02, "intermediate_size": 96,
	"layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "model_type": "gpt_neox",
	"num_attention_heads": 6, "num_hidden_layers": 5, "rotary_emb_base": 10000, "rotary_pct": 0.5,
	"tie_word_embeddings": false, "torch_dtype": "float16", "use_cache": true,
	"use_parallel_residual": true, "vocab_size": 40, "transformers_version": "4.24.0",
}

// edited is neox with members replaced, or left out where the value is nil.
func edited(members map[string]any) []byte {
	m := maps.Clone(neox)
	for k, v := range members {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func TestParseConfig(t *testing.T) {
	plain := small(5, 6)
	with := func(f func(c *model.Config)) model.Config {
		c := plain
		f(&c)
		return c
	}
	three, _ := model.ContiguousOwners(5, 3)
	free, _ := model.ParseOwnerMap("0_0_2_0_2")
	for _, c := range []struct {
		name    string
		members map[string]any
		want    model.Config
	}{
		{"Pythia", nil, plain},
		{"few members", map[string]any{"layer_norm_eps": nil, "use_parallel_residual": nil, "hidden_act": nil, "bos_token_id": nil, "tie_word_embeddings": nil, "rotary_emb_base": nil}, plain},
		{"transformers 5", map[string]any{"rotary_pct": nil, "rotary_emb_base": nil, "rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 1.0}},
			with(func(c *model.Config) { c.RotaryPct, c.RotaryBase = 1, 5000 })},
		{"null rope_scaling", map[string]any{"rope_scaling": json.RawMessage("null")}, plain},
		{"sequential, tied", map[string]any{"use_parallel_residual": false, "tie_word_embeddings": true},
			with(func(c *model.Config) { c.ParallelResidual, c.TiedEmbeddings = false, true })},
		{"the authors'", map[string]any{"num_key_value_heads": 2, "num_key_value_layers": 3},
			with(func(c *model.Config) { c.KVHeads, c.Owner, c.SharedKeyRotary = 2, three, model.RotaryBefore })},
		{"the authors' with MLPs", map[string]any{"num_key_value_heads": 2, "num_key_value_layers": 3, "use_key_value_mlp": true, "kv_intermediate_size": 11},
			with(func(c *model.Config) {
				c.KVHeads, c.Owner, c.SharedKeyRotary, c.KVIntermediateSize = 2, three, model.RotaryBefore, 11
			})},
		{"ours", map[string]any{"num_key_value_heads": 2, "num_key_value_layers": 2, "layer_map": "0_0_2_0_2", "shared_key_rotary": "after"},
			with(func(c *model.Config) { c.KVHeads, c.Owner = 2, free })},
		{"ours, separate", map[string]any{"num_key_value_heads": 2, "num_key_value_layers": 2, "layer_map": "0_0_2_0_2", "value_layer_map": "0_1_1_1_4", "shared_key_rotary": "after"},
			with(func(c *model.Config) { c.KVHeads, c.Owner, c.ValueOwner = 2, free, model.OwnerMap{0, 1, 1, 1, 4} })},
		{"ours, separate, keys spread", map[string]any{"num_key_value_layers": 3, "value_layer_map": "0_0_0_0_0", "shared_key_rotary": "after"},
			with(func(c *model.Config) { c.Owner, c.ValueOwner = three, model.OwnerMap{0, 0, 0, 0, 0} })},
		{"ours, equal maps", map[string]any{"layer_map": "0_0_2_0_2", "value_layer_map": "0_0_2_0_2"},
			with(func(c *model.Config) { c.Owner = free })},
		{"2048.0 and a list", map[string]any{"max_position_embeddings": json.RawMessage("2048.0"), "eos_token_id": []int{0, 1}}, plain},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseConfig(edited(c.members))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got      %+v\nexpected %+v", got, c.want)
			}
		})
	}
}

var badConfigs = []struct {
	name    string
	members map[string]any
	want    string
}{
	{"another architecture", map[string]any{"model_type": "llama"}, `model_type: expected "gpt_neox" or "gpt_neox_mlkv", found "llama"`},
	{"no model type", map[string]any{"model_type": nil}, "model_type: expected a text, found none"},
	{"tanh GELU", map[string]any{"hidden_act": "gelu_new"}, `hidden_act: expected "gelu" (the exact form), found "gelu_new"`},
	{"no bias", map[string]any{"attention_bias": false}, "attention_bias: expected true"},
	{"quantized", map[string]any{"quantization_config": map[string]any{"bits": 4}}, "quantization_config"},
	{"no size", map[string]any{"hidden_size": nil}, "hidden_size: expected a whole number, found none"},
	{"text for a number", map[string]any{"vocab_size": "40"}, `vocab_size: expected a whole number, found "40"`},
	{"fraction", map[string]any{"vocab_size": 40.5}, "vocab_size: expected a whole number below 2^31, found 40.5"},
	{"huge", map[string]any{"vocab_size": 1e30}, "vocab_size"},
	{"zero heads", map[string]any{"num_attention_heads": 0}, "num_attention_heads: expected a positive number, found 0"},
	{"negative layers", map[string]any{"num_hidden_layers": -1}, "num_hidden_layers: expected 1 to 65536, found -1"},
	{"heads do not divide", map[string]any{"num_attention_heads": 5}, "hidden_size: 24 does not divide into num_attention_heads 5"},
	{"KV heads do not divide", map[string]any{"num_key_value_heads": 4}, "num_key_value_heads: 4 does not divide num_attention_heads 6"},
	{"too many KV layers", map[string]any{"num_key_value_layers": 6}, "num_key_value_layers: expected 1 to 5 (num_hidden_layers), found 6"},
	{"map of another length", map[string]any{"layer_map": "0_0"}, "layer_map: expected 5 layers (num_hidden_layers), found 2"},
	{"map pointing forward", map[string]any{"layer_map": "0_2_2_3_4"}, "layer 1 names owner 2"},
	{"map through another", map[string]any{"layer_map": "0_0_1_3_4"}, "owns nothing itself"},
	{"map of letters", map[string]any{"layer_map": "0_a_2_3_4"}, `expected a layer number, found "a"`},
	{"map and layers disagree", map[string]any{"layer_map": "0_0_2_0_2", "num_key_value_layers": 3}, "layer_map: expected 3 owners (num_key_value_layers), found 2"},
	{"value map of another length", map[string]any{"value_layer_map": "0_0"}, "value_layer_map: expected 5 layers (num_hidden_layers), found 2"},
	{"value map pointing forward", map[string]any{"value_layer_map": "0_2_2_3_4"}, `value_layer_map: "0_2_2_3_4": layer 1 names owner 2`},
	{"value map of letters", map[string]any{"value_layer_map": "0_a_2_3_4"}, `value_layer_map: "0_a_2_3_4": layer 1: expected a layer number, found "a"`},
	{"value map of numbers", map[string]any{"value_layer_map": []int{0, 0}}, "value_layer_map: expected a text, found [0,0]"},
	{"unknown sharing", map[string]any{"shared_key_rotary": "during"}, `shared_key_rotary: expected "after" or "before", found "during"`},
	{"MLP without size", map[string]any{"use_key_value_mlp": true}, "kv_intermediate_size"},
	{"scaled rotary", map[string]any{"rope_scaling": map[string]any{"type": "linear", "factor": 2}}, `rope_scaling.rope_type: expected "default", found "linear"`},
	{"odd rotary", map[string]any{"rotary_pct": 0.25}, "rotary needs an even number"},
	{"rotary above one", map[string]any{"rotary_pct": 1.5}, "rotary_pct: expected 0 to 1, found 1.5"},
}

func TestBadConfig(t *testing.T) {
	for _, c := range badConfigs {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseConfig(edited(c.members))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, expected one with %q", err, c.want)
			}
		})
	}
	for _, text := range []string{"", "[]", "{", `"x"`} {
		if _, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), "expected a JSON object") {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

func TestEncodeConfig(t *testing.T) {
	free, _ := model.ParseOwnerMap("0_0_2_0_2")
	shared := small(5, 2)
	shared.Owner, shared.KVIntermediateSize = free, 13
	separate := shared.WithOwners(free, model.OwnerMap{0, 1, 1, 1, 4})
	for name, cfg := range map[string]model.Config{"plain": small(5, 6), "shared": shared, "separate": separate} {
		source := edited(map[string]any{"custom": map[string]any{"a": []int{1}}, "num_key_value_layers": 3, "value_layer_map": "0_0_0_0_0", "dtype": "float16",
			"rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 1.0, "kept": true}})
		data, err := EncodeConfig(cfg, HuggingFace, BF16, source)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseConfig(data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, cfg) {
			t.Errorf("%s:\ngot      %+v\nexpected %+v", name, got, cfg)
		}
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		if m["custom"] == nil || m["transformers_version"] != "4.24.0" || m["rope_parameters"].(map[string]any)["kept"] != true {
			t.Errorf("%s: members of the source are lost: %s", name, data)
		}
		if m["torch_dtype"] != "bfloat16" || m["dtype"] != "bfloat16" {
			t.Errorf("%s: torch_dtype %v, dtype %v, expected bfloat16", name, m["torch_dtype"], m["dtype"])
		}
		for _, field := range sharingFields {
			want := name == "separate" || name == "shared" && field != "value_layer_map"
			if _, ok := m[field]; ok != want {
				t.Errorf("%s: %s present: %v", name, field, ok)
			}
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(edited(nil))
	for _, c := range badConfigs {
		f.Add(edited(c.members))
	}
	f.Add(edited(map[string]any{"layer_map": "0_0_2_0_2", "value_layer_map": "0_1_1_1_4"}))
	f.Add([]byte(`{"model_type":"gpt_neox","eos_token_id":[1e300],"num_hidden_layers":1e9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := ParseConfig(data)
		if err != nil {
			return
		}
		out, err := EncodeConfig(cfg, HuggingFace, F32, data)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig(out)
		if err != nil || !reflect.DeepEqual(again, cfg) {
			t.Errorf("after writing: %v\ngot      %+v\nexpected %+v", err, again, cfg)
		}
	})
}
