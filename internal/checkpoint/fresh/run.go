package fresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"mlkv/internal/checkpoint"
	"mlkv/internal/model"
	"mlkv/internal/outdir"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// Options say which model is made.
type Options struct {
	// Size is a name of model.SizeNames or a YAML file whose keys are those of
	// config.json.
	Size      string
	Output    string
	Force     bool // replace Output where it exists
	Seed      int64
	DType     string // float32, float16, bfloat16; "" is float32
	Tokenizer string // tokenizer.json, or a folder with one, to be copied; "" copies none
}

// Run writes a checkpoint of random weights. Errors in the options and in a
// YAML of sizes carry ui.ExitUsage.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	if o.Output == "" {
		return ui.Usagef("output: expected the name of a folder, found none")
	}
	cfg, err := Sizes(o.Size)
	if err != nil {
		return err
	}
	dtype := checkpoint.F32
	if o.DType != "" {
		if dtype, err = checkpoint.ParseDType(o.DType); err != nil {
			return ui.Usagef("%w", err)
		}
	}
	if o.Tokenizer != "" {
		t, err := tokenizer.Load(o.Tokenizer)
		if err != nil {
			return err
		}
		if n := t.VocabSize(); n > cfg.VocabSize {
			return ui.Usagef("%s: expected token ids below vocab_size %d, found ids up to %d", o.Tokenizer, cfg.VocabSize, n-1)
		}
		cfg.BOS, cfg.EOS = int(t.EOS()), int(t.EOS())
	}
	out, err := outdir.Create(o.Output, o.Force)
	if err != nil {
		return err
	}
	defer out.Abort()
	w := &counted{Weights: New(cfg, o.Seed), ctx: ctx,
		progress: ui.NewProgress(s, int64(cfg.Parameters()), "init", ui.Count("parameters"))}
	folder, err := copyTokenizer(out.Path(), o.Tokenizer)
	if err == nil {
		err = checkpoint.Write(out.Path(), cfg, w, checkpoint.WriteOptions{DType: dtype, Tokenizer: folder})
	}
	w.progress.Done()
	if err != nil {
		return err
	}
	if err := out.Commit(); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "%s: %s parameters, seed %d\n", o.Output, ui.FormatInt(int64(cfg.Parameters())), o.Seed)
	return nil
}

// counted shows the progress of drawing and stops on a signal.
type counted struct {
	*Weights
	ctx      context.Context
	progress *ui.Progress
}

func (c *counted) Float32(name string) ([]float32, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	x, err := c.Weights.Float32(name)
	c.progress.Add(int64(len(x)))
	return x, err
}

// copyTokenizer copies a tokenizer.json that lies alone; of a folder it returns
// the name, for checkpoint.Write to copy.
func copyTokenizer(dir, from string) (string, error) {
	if from == "" {
		return "", nil
	}
	info, err := os.Stat(from)
	if err != nil {
		return "", ui.Inputf("tokenizer: %w", err)
	}
	if info.IsDir() {
		return from, nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return "", ui.Inputf("tokenizer: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), data, 0o666); err != nil {
		return "", fmt.Errorf("write tokenizer.json: %w", err)
	}
	return "", nil
}

// keys are what a YAML of sizes may hold.
var keys = []string{
	"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
	"max_position_embeddings", "rotary_pct", "rotary_emb_base", "layer_norm_eps", "use_parallel_residual",
	"tie_word_embeddings", "initializer_range", "bos_token_id", "eos_token_id",
	"num_key_value_heads", "num_key_value_layers", "layer_map", "value_layer_map", "shared_key_rotary",
	"use_key_value_mlp", "kv_intermediate_size",
}

// Sizes reads a named size or a YAML file whose keys are those of config.json.
// Errors carry ui.ExitUsage.
func Sizes(size string) (model.Config, error) {
	if size == "" {
		return model.Config{}, ui.Usagef("size: expected one of %s or a YAML file, found none", strings.Join(model.SizeNames(), ", "))
	}
	cfg, err := model.Sized(size)
	if err == nil {
		return cfg, nil
	}
	data, fileErr := os.ReadFile(size)
	switch {
	case errors.Is(fileErr, os.ErrNotExist):
		return model.Config{}, ui.Usagef("%w, and there is no file of that name%s", err, ui.DidYouMean(size, model.SizeNames()))
	case fileErr != nil:
		return model.Config{}, ui.Usagef("size: %w", fileErr)
	}
	cfg, err = parseSizes(data)
	if err != nil {
		return model.Config{}, ui.Usagef("%s: %w", size, err)
	}
	return cfg, nil
}

// parseSizes reads the keys of config.json from YAML. Those left out are
// Pythia's; intermediate_size is four times hidden_size.
func parseSizes(data []byte) (model.Config, error) {
	var given map[string]yaml.Node
	if err := yaml.Unmarshal(data, &given); err != nil {
		return model.Config{}, err
	}
	for key := range given {
		if !slices.Contains(keys, key) {
			return model.Config{}, fmt.Errorf("%s: unknown key%s; known keys are %s", key, ui.DidYouMean(key, keys), strings.Join(keys, ", "))
		}
	}
	fields := map[string]any{"model_type": "gpt_neox", "shared_key_rotary": string(model.RotaryAfter)}
	for key, node := range given {
		var v any
		if err := node.Decode(&v); err != nil {
			return model.Config{}, fmt.Errorf("%s: %w", key, err)
		}
		if strings.HasSuffix(key, "layer_map") && v != nil && node.Kind == yaml.ScalarNode {
			v = node.Value // 0_0_2_2 is a number to YAML
		}
		fields[key] = v
	}
	if hidden, ok := fields["hidden_size"].(int); ok && fields["intermediate_size"] == nil {
		fields["intermediate_size"] = 4 * hidden
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return model.Config{}, err
	}
	return checkpoint.ParseConfig(text)
}
