// Package measure takes the memory and the speed of incremental decoding, as
// the MLKV paper does (arXiv 2406.09297, section 4.4, and the authors'
// measure_memory.py): a cache of random keys and values, then some decode
// steps, for growing batches until the device's memory is full. Beside the
// given batches it searches the largest one and the longest context that fit.
package measure

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/engine"
	"mlkv/internal/engine/device"
	"mlkv/internal/model"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// Model is what is measured.
type Model struct {
	Name string
	// Path is a checkpoint folder. Where it is empty, a model of the shape
	// Config with random weights is measured: memory and speed do not depend
	// on them.
	Path   string
	Config model.Config
}

// Options of a measurement.
type Options struct {
	Models  []Model
	Device  device.Options
	Lengths []int // of whole sequences, in tokens
	Batches []int // sequences decoded together, measured in ascending order
	// Steps are the decode steps that are timed, at the end of a sequence;
	// fewer where they would take more than Seconds.
	Steps   int
	Seconds float64
	// CacheBits is the size of a cached element; 0 takes the device's own.
	CacheBits int
	// Memory is the most that a model and its cache may take, in bytes; 0
	// takes all that is free on a GPU, and half of it on the CPU.
	Memory int64
	// Largest asks for the largest batch that fits at each length.
	Largest bool
	// ContextBatches are the batches whose longest context is searched.
	ContextBatches []int
	Baseline       string // name of the model that others are compared with; "": none
	Seed           int64  // of weights, cache and tokens

	Output string // folder; "": results are only printed
	Force  bool   // replace the results that it holds
	JSON   bool   // print the results as JSON
	Config any    // for the record
}

// Run measures the models one after another, prints what was found and writes
// it to the output folder. That a batch or a context does not fit is a result.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	if err := o.complete(); err != nil {
		return err
	}
	record := provenance.New(o.Config)
	record.Seed("measure", o.Seed)
	eng, err := device.Open(o.Device)
	if err != nil {
		return err
	}
	defer eng.Close()
	res, err := measureAll(ctx, o, eng, record, s)
	if err != nil {
		return err
	}
	if o.JSON {
		text, err := res.json()
		if err != nil {
			return err
		}
		_, err = s.Out.Write(text)
		return err
	}
	return res.print(s.Out, o.Baseline)
}

// measureAll measures the models that the output folder does not hold yet.
func measureAll(ctx context.Context, o Options, eng engine.Engine, record *provenance.Record, s ui.Streams) (*Results, error) {
	info := eng.Info()
	res := &Results{Format: format, Provenance: record, Device: Device{
		Device: info.Device, Name: info.Name, Backend: info.Backend, Memory: info.Total, Limit: o.Memory,
	}}
	out, err := openOutput(o, res.Device)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	for _, m := range o.Models {
		r, ok := out.done[m.Name]
		if ok {
			if err := m.sameWeights(r.Checksum); err != nil {
				return nil, err
			}
		} else {
			if r, err = measureModel(ctx, o, eng, m, s); err != nil {
				if errors.Is(err, context.Canceled) && o.Output != "" {
					fmt.Fprintf(s.Err, "%s keeps %d of %d models; the same command goes on from there\n", out.path(journalName), len(out.done), len(o.Models))
				}
				return nil, fmt.Errorf("%s: %w", m.Name, err)
			}
			if err := out.add(r); err != nil {
				return nil, err
			}
		}
		if m.Path != "" {
			record.Input(m.Path, r.Checksum)
		}
		res.Models = append(res.Models, r)
	}
	record.Device, record.Threads = info.Device, info.Threads
	record.Finish()
	return res, out.write(res)
}

// complete checks the options and reads the shapes of checkpoints.
func (o *Options) complete() error {
	switch {
	case len(o.Models) == 0:
		return ui.Usagef("measure: no model given: name checkpoint folders, or YAML files of rows")
	case o.Steps < 1:
		return ui.Usagef("steps: expected 1 or more, found %d", o.Steps)
	case !(o.Seconds > 0):
		return ui.Usagef("seconds: expected more than 0, found %g", o.Seconds)
	case o.Memory < 0:
		return ui.Usagef("memory: expected 0 or more bytes, found %d", o.Memory)
	case len(o.Lengths) == 0:
		return ui.Usagef("lengths: expected at least one, found none")
	}
	for _, l := range o.Lengths {
		if l < o.Steps+2 {
			return ui.Usagef("lengths: expected at least %d (two more than the steps), found %d", o.Steps+2, l)
		}
	}
	if b := append(slices.Clone(o.Batches), o.ContextBatches...); len(b) > 0 && slices.Min(b) < 1 {
		return ui.Usagef("batches: expected 1 or more, found %d", slices.Min(b))
	}
	o.Lengths, o.Batches, o.ContextBatches = ascending(o.Lengths), ascending(o.Batches), ascending(o.ContextBatches)
	return o.completeModels()
}

// ascending are the distinct elements in ascending order.
func ascending(list []int) []int { return slices.Compact(slices.Sorted(slices.Values(list))) }

func (o *Options) completeModels() error {
	o.Models = slices.Clone(o.Models)
	names := map[string]bool{}
	for i, m := range o.Models {
		if names[m.Name] {
			return ui.Usagef("two models would be called %q; measure them in two calls", m.Name)
		}
		names[m.Name] = true
		if m.Path == "" {
			continue
		}
		c, err := checkpoint.Open(m.Path)
		if err != nil {
			return err
		}
		o.Models[i].Config = c.Config()
		if err := c.Close(); err != nil {
			return err
		}
	}
	if o.Baseline != "" && !names[o.Baseline] {
		var known []string
		for _, m := range o.Models {
			known = append(known, m.Name)
		}
		return ui.Usagef("baseline: expected one of the models measured (%q), found %q%s", known, o.Baseline, ui.DidYouMean(o.Baseline, known))
	}
	return nil
}

// sameWeights is an error where the checkpoint is not the one that an
// interrupted measurement read.
func (m Model) sameWeights(checksum string) error {
	_, now, closeFiles, err := m.open(0)
	if err != nil {
		return err
	}
	if err := closeFiles(); err != nil {
		return err
	}
	if now != checksum {
		return ui.Usagef("%s: its weights changed since the measurement that this call goes on with (expected checksum %s, found %s); choose another --out or pass --force to begin anew",
			m.Path, checksum, now)
	}
	return nil
}

// open gives the weights of a model and the checksum of their files.
func (m Model) open(seed int64) (w engine.Weights, checksum string, closeFiles func() error, err error) {
	if m.Path == "" {
		return fresh.New(m.Config, seed), "", func() error { return nil }, nil
	}
	c, err := checkpoint.Open(m.Path)
	if err != nil {
		return nil, "", nil, err
	}
	if checksum, err = c.Checksum(); err != nil {
		return nil, "", nil, errors.Join(err, c.Close())
	}
	return c, checksum, c.Close, nil
}
