package eval

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/engine/device"
	"mlkv/internal/provenance"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// Options of the eval command.
type Options struct {
	Models []string // checkpoint folders
	// Names are what tables and folders call the models; where one is empty or
	// missing, the model is called after its folder.
	Names []string
	Tasks []string
	Data  string // folder of task files
	// Heldout are packed shards or text; where given, the task heldout is run.
	Heldout []string
	// RowLength bounds the sequences of held-out text; 0: the model's context.
	RowLength int
	Limit     int // documents of each task, from its beginning; 0: all
	// Shots are the examples before every prompt.
	Shots Shots
	// Text are files for the task text.
	Text        []string
	BatchTokens int // tokens scored together; 0: what suits the device
	// Output is the folder for results.json and, with LogSamples, a file of
	// samples a task; several models have a folder each in it. Empty: none.
	Output     string
	Force      bool // replace the results in Output
	LogSamples bool
	Compare    string // result file to hold the figures against
	JSON       bool   // print the results as JSON
	Device     device.Options
	Config     any // for the record
}

// Run scores models and prints their figures. What a model has answered before
// an interruption is kept in the output folder and not asked again.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	names, err := o.names()
	if err != nil {
		return err
	}
	// A GPU takes a second to open: time in which checkpoint and requests are
	// made ready.
	open := sync.OnceValues(func() (engine.Engine, error) { return device.Open(o.Device) })
	go open()
	defer func() {
		if eng, err := open(); err == nil {
			eng.Close()
		}
	}()
	sets, err := o.sets()
	if err != nil {
		return err
	}
	var other Scores
	if o.Compare != "" {
		if other, err = ReadScores(o.Compare); err != nil {
			return err
		}
	}
	p := printer{Options: o, out: s.Out, other: other}
	for i, dir := range o.Models {
		r := run{Options: o, streams: s, engine: open, sets: sets, dir: dir, name: names[i], output: o.Output}
		if len(o.Models) > 1 && o.Output != "" {
			r.output = filepath.Join(o.Output, names[i])
		}
		outcome, res, err := r.run(ctx)
		if err != nil {
			return err
		}
		if err := p.print(names[i], outcome, res); err != nil {
			return err
		}
	}
	return p.end()
}

// names are what tables and folders call the models.
func (o Options) names() ([]string, error) {
	if len(o.Models) == 0 {
		return nil, ui.Usagef("eval: no checkpoint given")
	}
	var names []string
	for i, dir := range o.Models {
		name, err := folderName(dir)
		if err != nil {
			return nil, err
		}
		if i < len(o.Names) && o.Names[i] != "" {
			name = o.Names[i]
		}
		if slices.Contains(names, name) {
			return nil, ui.Usagef("eval: two checkpoints would be called %q; evaluate them in two calls", name)
		}
		names = append(names, name)
	}
	return names, nil
}

// folderName is what a model is called after its folder.
func folderName(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	// A run keeps its checkpoint in a folder of a general name.
	for slices.Contains([]string{"model", "converted", "uptrain"}, filepath.Base(abs)) {
		abs = filepath.Dir(abs)
	}
	return filepath.Base(abs), nil
}

// run is the evaluation of one checkpoint.
type run struct {
	Options
	streams   ui.Streams
	engine    func() (engine.Engine, error)
	sets      []Set
	dir, name string
	output    string
}

func (r run) run(ctx context.Context) (Outcome, Object, error) {
	fail := func(err error) (Outcome, Object, error) { return Outcome{}, nil, err }
	started := time.Now()
	record := provenance.New(r.Config)
	cp, err := checkpoint.Open(r.dir)
	if err != nil {
		return fail(err)
	}
	defer cp.Close()
	if err := checkOutput(r.output, r.Force); err != nil {
		return fail(err)
	}
	var times phases
	p, err := r.prepare(cp, &times)
	if p.scorer != nil {
		defer p.scorer.Close()
	}
	if err != nil {
		return fail(err)
	}
	record.Input(r.dir, p.sum)
	record.Input(filepath.Join(r.dir, tokenizer.FileName), p.tokenizer.Checksum())
	if err := r.recordInputs(record); err != nil {
		return fail(err)
	}
	out, err := openOutput(r.output, r.Force)
	if err != nil {
		return fail(err)
	}
	defer out.Close()

	m := Model{
		Name: r.name, Config: cp.Config(), Scorer: p.scorer, Tokenizer: p.tokenizer,
		Identity: fmt.Sprintf("%s %s %s", p.sum, p.info.Device, p.info.Backend),
	}
	var outcome Outcome
	if err := times.measure("scoring", func() error {
		records, err := m.answer(ctx, p.questions, p.work, out.log)
		if err != nil {
			return err
		}
		return times.measure("figures", func() (err error) {
			outcome, err = m.outcome(p.work, p.questions.counts, records)
			return err
		})
	}); err != nil {
		if errors.Is(err, context.Canceled) && r.output != "" {
			fmt.Fprintf(r.streams.Err, "%s keeps %d answers; the same command goes on from there\n",
				filepath.Join(r.output, LogName), len(out.log.done))
		}
		return fail(err)
	}
	record.Device, record.Threads = p.info.Device, p.info.Threads
	record.Finish()
	res := result(outcome, Circumstances{
		Model: m, Dir: r.dir, Device: p.info.Device, BatchTokens: r.BatchTokens, Limit: r.Limit,
		Commit: record.Commit, Started: started, Elapsed: time.Since(started), Seconds: times.seconds(), Provenance: record,
	})
	return outcome, res, out.write(res, outcome, r.LogSamples)
}
