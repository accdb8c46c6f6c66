package convert

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// spoiled is noise with one element of one parameter replaced.
type spoiled struct {
	noise
	name  string
	value float32
}

func (s spoiled) Float32(name string) ([]float32, error) {
	x, err := s.noise.Float32(name)
	if name == s.name {
		x[5] = s.value
	}
	return x, err
}

// TestRefusals gives Run what it cannot use. Every case must end with its exit
// code and a message that names what is wrong, and leave nothing behind.
func TestRefusals(t *testing.T) {
	plain := folder(t, small(), checkpoint.WriteOptions{})
	grouped := small()
	grouped.KVHeads = 2
	grouped.Owner, _ = model.ParseOwnerMap("0_0_2_2_4_4")
	shared := folder(t, grouped, checkpoint.WriteOptions{})
	grouped.KVIntermediateSize = 9
	mlp := folder(t, grouped, checkpoint.WriteOptions{})
	nan := t.TempDir()
	bad := spoiled{newNoise(small()), "gpt_neox.layers.1.mlp.dense_h_to_4h.weight", float32(math.NaN())}
	if err := checkpoint.Write(nan, small(), bad, checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	large := t.TempDir()
	bad.value = 1e30
	if err := checkpoint.Write(large, small(), bad, checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	truncated := folder(t, small(), checkpoint.WriteOptions{})
	if err := os.Truncate(filepath.Join(truncated, "model.safetensors"), 5000); err != nil {
		t.Fatal(err)
	}
	other := folder(t, small(), checkpoint.WriteOptions{})
	if err := os.WriteFile(filepath.Join(other, "config.json"), []byte(`{"model_type":"llama"}`), 0o666); err != nil {
		t.Fatal(err)
	}
	wide := small()
	wide.IntermediateSize++
	shape := folder(t, wide, checkpoint.WriteOptions{})
	config, err := checkpoint.EncodeConfig(small(), checkpoint.HuggingFace, checkpoint.F32, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shape, "config.json"), config, 0o666); err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		name string
		o    Options
		code int
		want []string
	}{
		{"no source", Options{}, ui.ExitUsage, []string{"source"}},
		{"missing source", Options{Source: "nowhere"}, ui.ExitInput, []string{"nowhere", "config.json", "no such file"}},
		{"truncated", Options{Source: truncated}, ui.ExitInput, []string{truncated, "model.safetensors", "truncated"}},
		{"another architecture", Options{Source: other}, ui.ExitInput, []string{"config.json", "model_type", "gpt_neox", "llama"}},
		{"another shape", Options{Source: shape}, ui.ExitInput, []string{"model.safetensors", "dense_h_to_4h", "expected [96 24]", "found [97 24]"}},
		{"NaN", Options{Source: nan, KVHeads: 1}, ui.ExitInput, []string{"model.safetensors", "gpt_neox.layers.1.mlp.dense_h_to_4h.weight", "element 5", "NaN"}},
		{"too large for float16", Options{Source: large, DType: "float16"}, ui.ExitFailed, []string{"gpt_neox.layers.1.mlp.dense_h_to_4h.weight", "1e+30", "F16"}},
		{"heads do not divide", Options{Source: plain, KVHeads: 4}, ui.ExitUsage, []string{"kv_heads: 4 does not divide the 6", "[1 2 3 6]"}},
		{"too many heads", Options{Source: shared, KVHeads: 6}, ui.ExitUsage, []string{"kv_heads: expected 1 to 2", "found 6"}},
		{"negative heads", Options{Source: plain, KVHeads: -1}, ui.ExitUsage, []string{"kv_heads: expected 1 to 6", "found -1"}},
		{"too many layers", Options{Source: plain, KVLayers: 7}, ui.ExitUsage, []string{"kv_layers: expected 1 to 6", "found 7"}},
		{"more layers than the source has", Options{Source: shared, KVLayers: 4}, ui.ExitUsage, []string{"kv_layers: expected 1 to 3", "found 4"}},
		{"negative layers", Options{Source: plain, KVLayers: -2}, ui.ExitUsage, []string{"kv_layers", "-2"}},
		{"map pointing forward", Options{Source: plain, LayerMap: "0_0_3_3_4_4"}, ui.ExitUsage, []string{"layer_map", "layer 2 names owner 3"}},
		{"short map", Options{Source: plain, LayerMap: "0_0_2"}, ui.ExitUsage, []string{"layer_map: expected 6 layers", "found 3"}},
		{"map of letters", Options{Source: plain, LayerMap: "0_x"}, ui.ExitUsage, []string{"layer_map", `"x"`}},
		{"owner without keys", Options{Source: shared, LayerMap: "0_0_0_3_3_3"}, ui.ExitUsage, []string{"layer_map", "layer 3", "owns no keys and values in the source", "0_0_2_2_4_4"}},
		{"groups torn apart", Options{Source: shared, LayerMap: "0_0_2_0_0_0"}, ui.ExitUsage, []string{"layer_map", "layers 2 and 3 share", "0_0_2_2_4_4"}},
		{"uneven layers of a shared source", Options{Source: shared, KVLayers: 2}, ui.ExitUsage, []string{"kv_layers", "layer 3"}},
		{"map and layers", Options{Source: plain, LayerMap: "0_0_0_0_0_0", KVLayers: 1}, ui.ExitUsage, []string{"kv_layers and layer_map"}},
		{"values' map pointing forward", Options{Source: plain, ValueLayerMap: "0_0_3_3_4_4"}, ui.ExitUsage, []string{"value_layer_map", "layer 2 names owner 3"}},
		{"short map of values", Options{Source: plain, ValueLayerMap: "0_0_2"}, ui.ExitUsage, []string{"value_layer_map: expected 6 layers", `found 3 in "0_0_2"`}},
		{"values' map of letters", Options{Source: plain, ValueLayerMap: "0_x"}, ui.ExitUsage, []string{"value_layer_map", `"x"`}},
		{"owner without values", Options{Source: shared, ValueLayerMap: "0_0_0_3_3_3"}, ui.ExitUsage, []string{"value_layer_map: layer 3", "owns no values in the source", "0_0_2_2_4_4"}},
		{"groups of values torn apart", Options{Source: shared, ValueLayerMap: "0_0_2_0_0_0"}, ui.ExitUsage, []string{"value_layer_map: layers 2 and 3 share values", "0_0_2_2_4_4"}},
		{"groups of keys torn apart", Options{Source: shared, LayerMap: "0_0_2_0_0_0", ValueLayerMap: "0_0_0_0_0_0"}, ui.ExitUsage, []string{": layers 2 and 3 share keys in"}},
		{"key/value MLPs", Options{Source: mlp, KVHeads: 1}, ui.ExitUsage, []string{"use_key_value_mlp", mlp}},
		{"too little lost for MLPs", Options{Source: plain, KeyValueMLP: true}, ui.ExitUsage, []string{"key_value_mlp", "24 channels"}},
		{"unknown pooling", Options{Source: plain, Pooling: "meen"}, ui.ExitUsage, []string{"pooling: expected one of first, mean, running", "meen", "did you mean mean?"}},
		{"unknown growth", Options{Source: plain, Grow: "spilt"}, ui.ExitUsage, []string{"grow: expected one of copy, none, split", "spilt"}},
		{"unknown preset", Options{Source: plain, Preset: "paper"}, ui.ExitUsage, []string{"preset: expected authors", "paper"}},
		{"unknown type", Options{Source: plain, DType: "int8"}, ui.ExitUsage, []string{"dtype", "int8"}},
		{"unknown rotary", Options{Source: plain, SharedKeyRotary: "during"}, ui.ExitUsage, []string{"shared_key_rotary", "during"}},
		{"check without an engine", Options{Source: plain, Check: []string{"x"}}, ui.ExitUsage, []string{"check"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := t.TempDir()
			c.o.Output = filepath.Join(parent, "out")
			s, stdout := streams()
			err := Run(context.Background(), c.o, s)
			if got := ui.ExitCode(err); got != c.code {
				t.Errorf("exit code %d, expected %d: %v", got, c.code, err)
			}
			for _, want := range c.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("the message lacks %q: %v", want, err)
				}
			}
			if left := entries(t, parent); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if stdout.Len() > 0 {
				t.Errorf("standard output: %s", stdout)
			}
		})
	}
}

func TestOutputInUse(t *testing.T) {
	source := folder(t, small(), checkpoint.WriteOptions{})
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "mine"), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	s, _ := streams()
	o := Options{Source: source, Output: out}
	err := Run(context.Background(), o, s)
	if ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), out) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("error %v", err)
	}
	if got := fmt.Sprint(entries(t, out)); got != "[mine]" {
		t.Errorf("the folder holds %s", got)
	}
	o.Force = true
	if err := Run(context.Background(), o, s); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(entries(t, out)); got != "[config.json convert.json model.safetensors]" {
		t.Errorf("the folder holds %s", got)
	}
}

// TestInPlace replaces the source by its conversion.
func TestInPlace(t *testing.T) {
	source := folder(t, small(), checkpoint.WriteOptions{})
	want := converted(t, source, Options{KVHeads: 2})
	s, _ := streams()
	if err := Run(context.Background(), Options{Source: source, Output: source, Force: true, KVHeads: 2}, s); err != nil {
		t.Fatal(err)
	}
	equalModels(t, open(t, source), want, 0)
}
