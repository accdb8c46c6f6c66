// Package convert turns a GPT-NeoX checkpoint into one whose layers and heads
// share keys and values (MLKV, arXiv 2406.09297, section 3): the key and value
// heads of a group are pooled into one, and the MLPs may grow by the parameters
// that attention lost. Tensors are made one at a time while they are written.
package convert

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"mlkv/internal/absorb"
	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/outdir"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// Options are what a conversion is made of.
type Options struct {
	Source string // model folder
	Output string // folder to write
	Force  bool   // replace Output where it exists

	KVLayers int    // layers that own keys and values; 0 keeps the source's
	KVHeads  int    // key/value heads in such a layer; 0 keeps the source's
	LayerMap string // owner of each layer, instead of KVLayers
	// ValueLayerMap is the owner of each layer's values, where it is another than
	// that of its keys, which KVLayers or LayerMap gives.
	ValueLayerMap string

	// Start is how a shared head comes about: pooling, or absorb, which fits it
	// to what the heads of its group make of Calibration (package absorb).
	Start       string
	Calibration Calibration
	// Weighted and Refit refine Start absorb: absorb.Options.Weighted, and how
	// often absorb.Solution.Refit is done.
	Weighted bool
	Refit    int
	// Observer opens the device that shows activations, an engine.Observer;
	// used with Start absorb only.
	Observer func() (engine.Engine, error)

	Pooling         string // mean, running, first; with Start pooling
	Grow            string // split, copy, none
	SharedKeyRotary model.KeyRotary
	// KeyValueMLP makes each key and value projection a two-layer MLP, the
	// authors' use_key_value_mlp form, instead of growing the MLPs.
	KeyValueMLP bool
	Seed        int64 // of the random weights of KeyValueMLP
	// Preset "authors" stands for Pooling running, Grow copy and
	// SharedKeyRotary before.
	Preset string
	DType  string // float32, float16, bfloat16; "" keeps the source's
	// Format is the form of the folder; "" is checkpoint.HuggingFace.
	Format checkpoint.Format

	// Check names packed shards; the first CheckRows rows are scored before
	// and after.
	Check     []string
	CheckRows int
	// Engine opens the device that scores; used with Check only.
	Engine func() (engine.Engine, error)

	JSON bool // print the report as JSON instead of a table
}

// Run converts Options.Source and writes Options.Output with a convert.json
// that says what was done, which it also prints. Nothing is left behind where
// it fails. Errors in the options carry ui.ExitUsage, those in the source
// ui.ExitInput.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	if err := o.complete(); err != nil {
		return err
	}
	record := provenance.New(o.settings())
	record.Seed("key_value_mlp", o.Seed)
	src, err := checkpoint.Open(o.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	p, err := newPlan(src.Config(), o)
	if err != nil {
		return err
	}
	out, err := outdir.Create(o.Output, o.Force)
	if err != nil {
		return err
	}
	defer out.Abort()

	checksum := sync.OnceValues(src.Checksum)
	var reading sync.WaitGroup
	reading.Go(func() { checksum() })
	defer reading.Wait()
	if err := src.CheckFinite(); err != nil {
		return err
	}
	var absorbed *Absorbed
	if o.Start == "absorb" && absorb.Shares(p.src, p.dst) {
		if absorbed, err = absorbHeads(ctx, src, p, o, record, s); err != nil {
			return err
		}
	}
	if err := write(ctx, out.Path(), src, p, o, s); err != nil {
		return err
	}
	report := newReport(src, p, o)
	report.Absorbed = absorbed
	if len(o.Check) > 0 {
		if report.Check, err = check(ctx, src, out.Path(), o, s); err != nil {
			return err
		}
	}
	sum, err := checksum()
	if err != nil {
		return err
	}
	record.Input(o.Source, sum)
	record.Finish()
	report.Provenance = record
	if err := report.writeFile(filepath.Join(out.Path(), "convert.json")); err != nil {
		return err
	}
	if err := out.Commit(); err != nil {
		return err
	}
	if note := p.note(); note != "" {
		fmt.Fprintln(s.Err, note)
	}
	return report.print(s, o.JSON)
}

// write makes the weights of p from src and writes them to dir.
func write(ctx context.Context, dir string, src *checkpoint.Checkpoint, p *plan, o Options, s ui.Streams) error {
	dtype := src.DType()
	if o.DType != "" {
		var err error
		if dtype, err = checkpoint.ParseDType(o.DType); err != nil {
			return ui.Usagef("%w", err)
		}
	}
	w := newWeights(ctx, src, p)
	w.progress = ui.NewProgress(s, int64(p.dst.Parameters()), "convert", ui.Count("parameters"))
	defer w.progress.Done()
	return checkpoint.Write(dir, p.dst, w, checkpoint.WriteOptions{
		Format: o.Format, DType: dtype, Tokenizer: src.Dir(), Config: src.ConfigJSON(),
	})
}

// complete applies the preset and the defaults, and checks what does not need
// the source.
func (o *Options) complete() error {
	switch o.Preset {
	case "":
	case "authors":
		o.Pooling, o.Grow, o.SharedKeyRotary = "running", "copy", model.RotaryBefore
	default:
		return ui.Usagef("preset: expected authors, found %q", o.Preset)
	}
	if o.Start == "" {
		o.Start = "pooling"
	}
	if o.Pooling == "" {
		o.Pooling = "mean"
	}
	if o.Grow == "" {
		o.Grow = "split"
	}
	if o.SharedKeyRotary == "" {
		o.SharedKeyRotary = model.RotaryAfter
	}
	if o.CheckRows == 0 {
		o.CheckRows = 8
	}
	var err error
	if o.Format, err = checkpoint.ParseFormat(string(o.Format)); err != nil {
		return err
	}
	if !slices.Contains(starts, o.Start) {
		return ui.Usagef("start: expected one of %s, found %q%s", strings.Join(starts, ", "), o.Start, ui.DidYouMean(o.Start, starts))
	}
	if _, ok := poolings[o.Pooling]; !ok {
		return ui.Usagef("pooling: expected one of %s, found %q%s", names(poolings), o.Pooling, suggest(o.Pooling, poolings))
	}
	if _, ok := growths[o.Grow]; !ok {
		return ui.Usagef("grow: expected one of %s, found %q%s", names(growths), o.Grow, suggest(o.Grow, growths))
	}
	switch {
	case o.Source == "":
		return ui.Usagef("source: expected a model folder, found none")
	case o.Output == "":
		return ui.Usagef("output: expected the name of a folder, found none")
	case o.LayerMap != "" && o.KVLayers != 0:
		return ui.Usagef("kv_layers and layer_map: expected one of them, found both")
	case len(o.Check) > 0 && o.Engine == nil:
		return ui.Usagef("check: no engine to score with")
	case o.Start == "absorb":
		return o.completeAbsorb()
	}
	return nil
}

// settings is what provenance records of the options.
func (o Options) settings() any {
	settings := map[string]any{
		"kv_layers": o.KVLayers, "kv_heads": o.KVHeads, "layer_map": o.LayerMap,
		"start": o.Start, "absorb_weighted": o.Weighted, "absorb_refit": o.Refit, "pooling": o.Pooling, "grow": o.Grow, "shared_key_rotary": o.SharedKeyRotary,
		"key_value_mlp": o.KeyValueMLP, "preset": o.Preset, "dtype": o.DType, "format": o.Format,
	}
	if o.ValueLayerMap != "" {
		settings["value_layer_map"] = o.ValueLayerMap
	}
	return settings
}

// names lists the keys of a table of choices.
func names[T any](choices map[string]T) string {
	return strings.Join(slices.Sorted(maps.Keys(choices)), ", ")
}

func suggest[T any](word string, choices map[string]T) string {
	return ui.DidYouMean(word, slices.Sorted(maps.Keys(choices)))
}
