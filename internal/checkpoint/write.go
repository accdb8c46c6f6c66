package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mlkv/internal/model"
)

// Weights gives a model's parameters in float32 by their names in
// model.Config.Params.
type Weights interface {
	Float32(name string) ([]float32, error)
}

// RawWeights are weights of which some can be had as they are stored, in
// whatever type, without a copy; Raw reports false for the others.
type RawWeights interface {
	Weights
	Raw(name string) (Tensor, bool)
}

// WriteOptions say how a checkpoint is written.
type WriteOptions struct {
	// Format is the form of the folder; "" is HuggingFace.
	Format Format
	// DType is the element type of the weights; "" is F32.
	DType DType
	// Tokenizer is a folder whose tokenizer files and generation_config.json
	// are copied; "" copies none.
	Tokenizer string
	// Config is a config.json whose members that do not speak of the model's
	// shape are kept; it may be nil.
	Config []byte
}

// companions are the files of a model folder that go with the weights without
// depending on them.
var companions = []string{
	"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
	"vocab.json", "merges.txt", "added_tokens.json", "generation_config.json",
}

// Write fills dir, a fresh folder that the caller owns, with a model:
// config.json, weights and the tokenizer's files. It asks w for one parameter
// at a time. In the form HuggingFace, a model without sharing is written as
// plain GPT-NeoX, its query, key and value fused, and one with sharing brings
// its code in Python.
func Write(dir string, cfg model.Config, w Weights, o WriteOptions) error {
	if o.DType == "" {
		o.DType = F32
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	if err := o.Format.Represents(cfg); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	data, err := EncodeConfig(cfg, o.Format, o.DType, o.Config)
	if err != nil {
		return fmt.Errorf("write %s: config.json: %w", dir, err)
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, data, 0o666); err != nil {
		return fmt.Errorf("write %s: %w", path, unwrapPath(err))
	}
	if err := copyCompanions(dir, o.Tokenizer); err != nil {
		return err
	}
	entries := Layout(cfg, o.Format, w, o.DType)
	if o.Format == Authors {
		return WriteTorch(filepath.Join(dir, "pytorch_model.bin"), entries)
	}
	if cfg.Shared() {
		if err := writeCode(dir); err != nil {
			return err
		}
	}
	return WriteSafetensors(filepath.Join(dir, "model.safetensors"), entries, map[string]string{"format": "pt"})
}

// Layout lists the tensors of a model's weight file: its parameters, or those
// of plain GPT-NeoX where the format does not keep query, key and value apart.
func Layout(cfg model.Config, f Format, w Weights, d DType) []Entry {
	var out []Entry
	for _, p := range cfg.Params() {
		e := Entry{Name: p.Name, DType: d, Shape: p.Shape, Source: func() (Tensor, error) { return fetch(w, p) }}
		if !f.separate(cfg) && p.Layer >= 0 {
			switch p.Name {
			case model.LayerName(p.Layer, model.Query) + ".weight":
				e = fusedEntry(cfg, w, p, ".weight", d)
			case model.LayerName(p.Layer, model.Query) + ".bias":
				e = fusedEntry(cfg, w, p, ".bias", d)
			default:
				if p.Part == model.PartKeyValue {
					continue
				}
			}
		}
		out = append(out, e)
	}
	return out
}

// fetch asks for a whole parameter and checks its length.
func fetch(w Weights, p model.Param) (Tensor, error) {
	if raw, ok := w.(RawWeights); ok {
		if t, ok := raw.Raw(p.Name); ok {
			return t, nil
		}
	}
	x, err := w.Float32(p.Name)
	if err != nil {
		return Tensor{}, err
	}
	if len(x) != p.Size() {
		return Tensor{}, fmt.Errorf("expected %d elements for shape %v, found %d", p.Size(), p.Shape, len(x))
	}
	return FromFloat32(p.Shape, x), nil
}

// fusedEntry is the query_key_value of one layer, whose rows are ordered
// [head, (query, key, value), channel]; query is the layer's query parameter
// and kind is ".weight" or ".bias".
func fusedEntry(cfg model.Config, w Weights, query model.Param, kind string, d DType) Entry {
	shape := slices.Clone(query.Shape)
	shape[0] *= 3
	return Entry{
		Name: model.LayerName(query.Layer, model.QueryKeyValue) + kind, DType: d, Shape: shape,
		Source: func() (Tensor, error) {
			out := make([]float32, 3*query.Size())
			head := query.Size() / cfg.Heads // elements
			for i, module := range fusedParts {
				p := query
				p.Name = model.LayerName(query.Layer, module) + kind
				x, err := w.Float32(p.Name)
				if err != nil {
					return Tensor{}, err
				}
				if len(x) != p.Size() {
					return Tensor{}, fmt.Errorf("%s: expected %d elements, found %d", p.Name, p.Size(), len(x))
				}
				for h := range cfg.Heads {
					copy(out[(3*h+i)*head:], x[h*head:(h+1)*head])
				}
			}
			return FromFloat32(shape, out), nil
		},
	}
}

// FusedParts lists the query, key and value parameters that lie in a tensor of
// the given name, none if it is no fused projection.
func FusedParts(name string) []string {
	layer, kind, ok := strings.Cut(name, model.QueryKeyValue)
	if !ok {
		return nil
	}
	var out []string
	for _, module := range fusedParts {
		out = append(out, layer+module+kind)
	}
	return out
}

// copyCompanions copies the tokenizer files that the folder from has.
func copyCompanions(dir, from string) error {
	if from == "" {
		return nil
	}
	for _, name := range companions {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", filepath.Join(from, name), unwrapPath(err))
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, name), unwrapPath(err))
		}
	}
	return nil
}
