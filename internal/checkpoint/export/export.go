// Package export writes a checkpoint anew in another form or element type. The
// model stays the same; package convert changes what is shared.
package export

import (
	"context"
	"encoding/json"
	"fmt"

	"mlkv/internal/checkpoint"
	"mlkv/internal/outdir"
	"mlkv/internal/ui"
)

// Options say what is written, and how.
type Options struct {
	Source string // model folder
	Output string // folder to write
	Force  bool   // replace Output where it exists
	// Format is the form of the folder; "" is checkpoint.HuggingFace.
	Format checkpoint.Format
	DType  string // float32, float16, bfloat16; "" keeps the source's
	JSON   bool   // print the report as JSON
}

// Report is what is printed.
type Report struct {
	Source     string            `json:"source"`
	Output     string            `json:"output"`
	Format     checkpoint.Format `json:"format"`
	DType      checkpoint.DType  `json:"dtype"`
	Parameters int               `json:"parameters"`
}

// Run writes Options.Output from Options.Source. Nothing is left behind where
// it fails. Errors in the options, and a model that the format cannot express,
// carry ui.ExitUsage, errors in the source ui.ExitInput.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	if o.Output == "" {
		return ui.Usagef("output: expected the name of a folder, found none; give --out")
	}
	var err error
	if o.Format, err = checkpoint.ParseFormat(string(o.Format)); err != nil {
		return err
	}
	src, err := checkpoint.Open(o.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	r := Report{Source: o.Source, Output: o.Output, Format: o.Format, DType: src.DType(), Parameters: src.Config().Parameters()}
	if o.DType != "" {
		if r.DType, err = checkpoint.ParseDType(o.DType); err != nil {
			return ui.Usagef("%w", err)
		}
	}
	if err := o.Format.Represents(src.Config()); err != nil {
		return err
	}
	out, err := outdir.Create(o.Output, o.Force)
	if err != nil {
		return err
	}
	defer out.Abort()
	if err := write(ctx, out.Path(), src, r, s); err != nil {
		return err
	}
	if err := out.Commit(); err != nil {
		return err
	}
	if !o.JSON {
		_, err := fmt.Fprintf(s.Out, "%s: %s parameters, format %s, %s\n", r.Output, ui.FormatInt(int64(r.Parameters)), r.Format, r.DType)
		return err
	}
	enc := json.NewEncoder(s.Out)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

func write(ctx context.Context, dir string, src *checkpoint.Checkpoint, r Report, s ui.Streams) error {
	if err := src.CheckFinite(); err != nil {
		return err
	}
	w := &weights{Checkpoint: src, ctx: ctx, sizes: map[string]int{}}
	for _, p := range src.Config().Params() {
		w.sizes[p.Name] = p.Size()
	}
	w.progress = ui.NewProgress(s, int64(r.Parameters), "export", ui.Count("parameters"))
	defer w.progress.Done()
	return checkpoint.Write(dir, src.Config(), w, checkpoint.WriteOptions{
		Format: r.Format, DType: r.DType, Tokenizer: src.Dir(), Config: src.ConfigJSON(),
	})
}

// weights are a checkpoint's, counted as they are read.
type weights struct {
	*checkpoint.Checkpoint
	ctx      context.Context
	progress *ui.Progress
	sizes    map[string]int // elements of each parameter
}

func (w *weights) Raw(name string) (checkpoint.Tensor, bool) {
	t, ok := w.Checkpoint.Raw(name)
	if !ok || w.ctx.Err() != nil {
		return checkpoint.Tensor{}, false
	}
	w.progress.Add(int64(w.sizes[name]))
	return t, true
}

func (w *weights) Float32(name string) ([]float32, error) {
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	w.progress.Add(int64(w.sizes[name]))
	return w.Checkpoint.Float32(name)
}

var _ checkpoint.RawWeights = (*weights)(nil)
