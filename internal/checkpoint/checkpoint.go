// Package checkpoint reads and writes model folders in Hugging Face's layout:
// config.json and weights as safetensors or as PyTorch's zip of a pickle, in
// one file or in shards. Files are mapped, so that opening a checkpoint copies
// nothing. Parameters go by the names of model.Config.Params, whose query, key
// and value are separate; the fused query_key_value of plain GPT-NeoX files is
// split on reading and put together on writing a plain model.
package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// Checkpoint is an opened model folder. Its methods may be called
// concurrently, Close excepted.
type Checkpoint struct {
	dir    string
	cfg    model.Config
	source []byte // config.json as it was read
	files  []*File
	params map[string]origin
}

// Open maps the weights of a model folder and checks that config.json is one
// of a GPT-NeoX model and that the files hold exactly its parameters, with
// their shapes. It does not read the weights; see CheckFinite. Errors carry
// ui.ExitInput and name file, field, what was expected and what was found.
func Open(dir string) (*Checkpoint, error) {
	path := filepath.Join(dir, "config.json")
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, ui.Inputf("%s: expected the config.json of a model folder: %w", path, unwrapPath(err))
	}
	cfg, err := ParseConfig(source)
	if err != nil {
		return nil, ui.Inputf("%s: %w", path, err)
	}
	files, err := openWeights(dir)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{dir: dir, cfg: cfg, source: source, files: files}
	if c.params, err = resolve(cfg, files); err != nil {
		c.Close()
		return nil, ui.Inputf("%w", err)
	}
	return c, nil
}

// openWeights opens the weight files of a folder in the order in which Hugging
// Face's loader looks for them.
func openWeights(dir string) ([]*File, error) {
	for _, k := range []struct {
		name, index string
		open        func(string) (*File, error)
	}{
		{"model.safetensors", "model.safetensors.index.json", OpenSafetensors},
		{"pytorch_model.bin", "pytorch_model.bin.index.json", OpenTorch},
	} {
		path := filepath.Join(dir, k.name)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			f, err := k.open(path)
			if err != nil {
				return nil, err
			}
			return []*File{f}, nil
		}
		path = filepath.Join(dir, k.index)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return openShards(path, k.open)
		}
	}
	return nil, ui.Inputf("%s: expected model.safetensors or pytorch_model.bin, or the index.json of one in shards, found none", dir)
}

// Config says what the model is.
func (c *Checkpoint) Config() model.Config { return c.cfg }

// ConfigJSON is config.json as it was read.
func (c *Checkpoint) ConfigJSON() []byte { return c.source }

// Dir is the folder as it was opened.
func (c *Checkpoint) Dir() string { return c.dir }

// DType is the widest element type among the parameters.
func (c *Checkpoint) DType() DType {
	found := map[DType]bool{}
	for _, o := range c.params {
		found[o.tensor.DType] = true
	}
	if len(found) == 1 {
		for d := range found {
			return d
		}
	}
	return F32
}

// Bytes is the size of the weight files together.
func (c *Checkpoint) Bytes() int64 {
	n := int64(0)
	for _, f := range c.files {
		n += int64(len(f.mapping.data))
	}
	return n
}

// Float32 returns a parameter's elements in row-major order. A tensor stored
// as F32 of its own is not copied: the slice is mapped, must not be written to
// and is valid until Close. Others are converted, on all processors.
func (c *Checkpoint) Float32(name string) ([]float32, error) {
	o, ok := c.params[name]
	if !ok {
		return nil, fmt.Errorf("%s: the model has no parameter %s", c.dir, name)
	}
	if o.part == whole {
		return o.tensor.Float32()
	}
	head := c.cfg.HeadSize() * o.tensor.Len() / o.tensor.Shape[0] // elements
	out := make([]float32, o.tensor.Len()/3)
	Parallel(len(out), func(lo, hi int) {
		for lo < hi {
			h, at := lo/head, lo%head
			n := min(head-at, hi-lo)
			o.tensor.decode(out[lo:lo+n], (3*h+o.part)*head+at)
			lo += n
		}
	})
	return out, nil
}

// Raw returns a parameter as it is stored, without a copy. It reports false
// for parts of a fused projection.
func (c *Checkpoint) Raw(name string) (Tensor, bool) {
	o, ok := c.params[name]
	return o.tensor, ok && o.part == whole
}

// Stored tells where a parameter lies: the name of the tensor in its file, the
// part of a fused projection ("query", "key" or "value"; "" for a tensor of
// its own) and the element type.
func (c *Checkpoint) Stored(name string) (tensor, part string, d DType) {
	o := c.params[name]
	if o.part != whole {
		part = []string{"query", "key", "value"}[o.part]
	}
	return o.stored, part, o.tensor.DType
}

// CheckFinite reads the named parameters, all where none is named, and reports
// the first that holds a NaN or an infinity. The error carries ui.ExitInput.
func (c *Checkpoint) CheckFinite(names ...string) error {
	if len(names) == 0 {
		for _, p := range c.cfg.Params() {
			names = append(names, p.Name)
		}
	}
	checked := map[string]bool{}
	for _, name := range names {
		o, ok := c.params[name]
		if !ok {
			return fmt.Errorf("%s: the model has no parameter %s", c.dir, name)
		}
		if checked[o.stored] {
			continue
		}
		checked[o.stored] = true
		if i := o.tensor.notFinite(); i >= 0 {
			var v [1]float32
			o.tensor.decode(v[:], i)
			return ui.Inputf("%s: tensor %s: element %d of %d: expected a finite number, found %g",
				o.file.path, o.stored, i, o.tensor.Len(), v[0])
		}
	}
	return nil
}

// Close unmaps the files; slices from Float32 and Raw are invalid from then on.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
