package checkpoint

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// files lists the names in a folder.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// readConfig returns the members of a folder's config.json.
func readConfig(t *testing.T, dir string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(get(t, filepath.Join(dir, "config.json")), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCodeOfSharedModels(t *testing.T) {
	foreign := []byte(`{"auto_map":{"AutoModelForCausalLM":"theirs.Model"}}`)
	plain := folder(t, small(5, 6), WriteOptions{Config: foreign})
	if got := files(t, plain); !slices.Equal(got, []string{"config.json", "model.safetensors"}) {
		t.Errorf("plain model: files %v", got)
	}
	if m := readConfig(t, plain); m["model_type"] != "gpt_neox" || m["auto_map"] != nil {
		t.Errorf("plain model: model_type %v, auto_map %v", m["model_type"], m["auto_map"])
	}

	dir := folder(t, small(2, 3), WriteOptions{Config: foreign})
	if got := files(t, dir); !slices.Equal(got, []string{"config.json", "configuration_mlkv.py", "model.safetensors", "modeling_mlkv.py"}) {
		t.Errorf("shared model: files %v", got)
	}
	m := readConfig(t, dir)
	if m["model_type"] != "gpt_neox_mlkv" || m["tokenizer_class"] != "GPTNeoXTokenizer" {
		t.Errorf("shared model: model_type %v, tokenizer_class %v", m["model_type"], m["tokenizer_class"])
	}
	classes := m["auto_map"].(map[string]any)
	if len(classes) != 3 {
		t.Errorf("auto_map %v", classes)
	}
	for auto, reference := range classes {
		module, class, _ := strings.Cut(reference.(string), ".")
		if !bytes.Contains(get(t, filepath.Join(dir, module+".py")), []byte("\nclass "+class+"(")) {
			t.Errorf("auto_map: %s: %s.py defines no class %s", auto, module, class)
		}
	}
	if got := open(t, dir).Config(); !reflect.DeepEqual(got, small(2, 3)) {
		t.Errorf("read back:\ngot      %+v\nexpected %+v", got, small(2, 3))
	}
}

func TestAuthorsFormat(t *testing.T) {
	grouped, shared, mlp := small(5, 2), small(2, 3), small(2, 1)
	shared.SharedKeyRotary, mlp.SharedKeyRotary = model.RotaryBefore, model.RotaryBefore
	mlp.KVIntermediateSize = 13
	for name, cfg := range map[string]model.Config{"plain": small(5, 6), "grouped": grouped, "shared": shared, "mlp": mlp} {
		t.Run(name, func(t *testing.T) {
			for _, d := range []DType{F32, F16, BF16} {
				dir := folder(t, cfg, WriteOptions{Format: Authors, DType: d, Config: []byte(`{"auto_map":{},"layer_map":"0_0"}`)})
				if got := files(t, dir); !slices.Equal(got, []string{"config.json", "pytorch_model.bin"}) {
					t.Errorf("files %v", got)
				}
				m := readConfig(t, dir)
				if m["model_type"] != "gpt_neox" || m["layer_map"] != nil || m["shared_key_rotary"] != nil || m["auto_map"] != nil ||
					m["num_key_value_heads"] != float64(cfg.KVHeads) || m["num_key_value_layers"] != float64(cfg.Owner.Owners()) ||
					m["use_key_value_mlp"] != (cfg.KVIntermediateSize > 0) {
					t.Errorf("config.json: %v", m)
				}
				c := open(t, dir)
				want := cfg
				want.SharedKeyRotary = model.RotaryBefore // what their config.json stands for
				if got := c.Config(); !reflect.DeepEqual(got, want) {
					t.Errorf("read back:\ngot      %+v\nexpected %+v", got, want)
				}
				for _, p := range cfg.Params() {
					sameFloats(t, p, c, newNoise(cfg))
					if stored, part, dtype := c.Stored(p.Name); stored != p.Name || part != "" || dtype != d {
						t.Errorf("%s lies in %s, part %q, as %s", p.Name, stored, part, dtype)
					}
				}
			}
		})
	}
}

func TestFormatRefuses(t *testing.T) {
	after, uneven, unturned := small(2, 3), small(2, 3), small(2, 3)
	uneven.Owner, _ = model.ParseOwnerMap("0_0_0_3_3")
	uneven.SharedKeyRotary = model.RotaryBefore
	unturned.RotaryPct = 0
	for _, c := range []struct {
		cfg  model.Config
		want string
	}{
		{after, `shared_key_rotary: expected "before"`},
		{uneven, "layer_map: expected 0_0_2_2_2, the only map with 2 owners"},
		{separateOwners(6), "value_layer_map: expected none, since their code shares keys and values alike (layer_map 0_0_2_2_0), found 0_1_1_1_0"},
	} {
		err := Authors.Represents(c.cfg)
		refused(t, err, ui.ExitUsage, "format authors", c.want)
		refused(t, Write(t.TempDir(), c.cfg, newNoise(c.cfg), WriteOptions{Format: Authors}), ui.ExitUsage, c.want)
		if err := HuggingFace.Represents(c.cfg); err != nil {
			t.Error(err)
		}
	}
	if err := Authors.Represents(unturned); err != nil {
		t.Errorf("without rotary, before and after are the same: %v", err)
	}
	_, err := ParseFormat("author")
	refused(t, err, ui.ExitUsage, "expected one of huggingface, authors", "did you mean")
}

// TestWriteTorchFails leaves no file where an element cannot be written.
func TestWriteTorchFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pytorch_model.bin")
	large := Entry{Name: "w", DType: F16, Shape: []int{2}, Source: func() (Tensor, error) { return FromFloat32([]int{2}, []float32{1, 1e6}), nil }}
	for _, c := range []struct {
		entry Entry
		want  string
	}{
		{large, "tensor w: element 1"},
		{Entry{Name: "w", DType: "I64", Shape: []int{1}}, "PyTorch has no storage for I64"},
	} {
		err := WriteTorch(path, []Entry{c.entry})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, expected one with %q", err, c.want)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
}
