package checkpoint

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// Format is a form in which a model folder is written. Every form can be read.
type Format string

const (
	// HuggingFace is what transformers loads: plain models as GPT-NeoX, shared
	// ones as model type gpt_neox_mlkv with the Python code of the model beside
	// the weights, for AutoModelForCausalLM and trust_remote_code.
	HuggingFace Format = "huggingface"
	// Authors is what the code of the MLKV authors loads
	// (github.com/zaydzuhri/pythia-mlkv, gpt_neox_mlkv): pytorch_model.bin with
	// separate projections, also for plain models, and their members of
	// config.json.
	Authors Format = "authors"
)

// Formats are the choices for WriteOptions.Format.
var Formats = []string{string(HuggingFace), string(Authors)}

// ParseFormat checks a format by name; "" is HuggingFace. The error carries
// ui.ExitUsage.
func ParseFormat(name string) (Format, error) {
	switch {
	case name == "":
		return HuggingFace, nil
	case slices.Contains(Formats, name):
		return Format(name), nil
	}
	return "", ui.Usagef("format: expected one of %s, found %q%s", strings.Join(Formats, ", "), name, ui.DidYouMean(name, Formats))
}

// Represents reports what of a model the format cannot express. The error
// carries ui.ExitUsage.
func (f Format) Represents(cfg model.Config) error {
	if f != Authors {
		return nil
	}
	if cfg.ValueOwner != nil {
		return ui.Usagef("format authors: value_layer_map: expected none, since their code shares keys and values alike (layer_map %s), found %s",
			cfg.Owner, cfg.ValueOwner)
	}
	owners := cfg.Owner.Owners()
	if !cfg.Owner.Contiguous() {
		spread, err := model.ContiguousOwners(cfg.Layers, owners)
		if err != nil {
			return ui.Usagef("format authors: %w", err)
		}
		return ui.Usagef("format authors: layer_map: expected %s, the only map with %d owners that their code knows, found %s", spread, owners, cfg.Owner)
	}
	if owners < cfg.Layers && cfg.SharedKeyRotary != model.RotaryBefore && cfg.RotaryDims() > 0 {
		return ui.Usagef("format authors: shared_key_rotary: expected %q, since their code lets layers borrow keys before rotary, found %q",
			model.RotaryBefore, cfg.SharedKeyRotary)
	}
	return nil
}

// separate reports whether a model's query, key and value are tensors of their
// own in the format.
func (f Format) separate(cfg model.Config) bool { return f == Authors || cfg.Shared() }

// code is the model in Python, for transformers.
//
//go:embed hf/*.py
var code embed.FS

// autoMap tells transformers' Auto classes where in code the model's classes
// are.
var autoMap = map[string]string{
	"AutoConfig":           "configuration_mlkv.MLKVConfig",
	"AutoModel":            "modeling_mlkv.MLKVModel",
	"AutoModelForCausalLM": "modeling_mlkv.MLKVForCausalLM",
}

// writeCode writes the Python code of the model into dir.
func writeCode(dir string) error {
	files, err := fs.Glob(code, "hf/*.py")
	if err != nil {
		return err
	}
	for _, name := range files {
		data, err := code.ReadFile(name)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(path, data, 0o666); err != nil {
			return fmt.Errorf("write %s: %w", path, unwrapPath(err))
		}
	}
	return nil
}
