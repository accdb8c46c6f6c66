package eval

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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

// sets reads the documents of the tasks.
func (o Options) sets() ([]Set, error) {
	if o.Limit < 0 {
		return nil, ui.Usagef("limit: expected 0 or more, found %d", o.Limit)
	}
	if o.Shots.Count < 0 {
		return nil, ui.Usagef("shots: expected 0 or more, found %d", o.Shots.Count)
	}
	var names []string
	for _, name := range o.Tasks {
		if name != HeldoutTask {
			names = append(names, name)
		} else if len(o.Heldout) == 0 {
			return nil, ui.Usagef("task heldout: no text; pass --heldout or set eval.heldout")
		}
	}
	sets, errs := make([]Set, len(names)), make([]error, len(names))
	each(len(names), func(i int) { sets[i], errs[i] = o.set(names[i]) })
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	if len(sets) == 0 && len(o.Heldout) == 0 {
		return nil, ui.Usagef("eval: no task given")
	}
	return sets, nil
}

// set reads the documents of a task and puts examples before their prompts.
func (o Options) set(name string) (Set, error) {
	set, err := o.documents(name)
	if err != nil {
		return set, err
	}
	if o.Limit > 0 {
		set.Documents = set.Documents[:min(o.Limit, len(set.Documents))]
	}
	set.Shots = o.Shots
	return set, o.Shots.prepend(set.Task, o.Data, set.Documents)
}

// documents reads those of a task.
func (o Options) documents(name string) (Set, error) {
	if name == TextTask {
		if len(o.Text) == 0 {
			return Set{}, ui.Usagef("task text: no file; pass --text or set eval.text")
		}
		return textSet(o.Text)
	}
	task, err := LookupTask(name)
	if err != nil {
		return Set{}, err
	}
	file, err := task.Find(o.Data)
	if err != nil {
		return Set{}, err
	}
	docs, err := task.Read(file)
	return Set{Task: task, File: file, Documents: docs, Original: len(docs)}, err
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

// prepared is what scoring needs.
type prepared struct {
	sum       string // of the weights
	tokenizer *tokenizer.Tokenizer
	work      Work
	questions questions
	scorer    engine.Scorer
	info      engine.Info
}

// prepare makes ready what scoring needs, at the same time: weights are checked,
// requests made, and the device is loaded.
func (r run) prepare(cp *checkpoint.Checkpoint, times *phases) (p prepared, err error) {
	var g errgroup.Group
	g.Go(func() error {
		return times.measure("checkpoint", func() (err error) {
			if err := cp.CheckFinite(); err != nil {
				return err
			}
			p.sum, err = cp.Checksum()
			return err
		})
	})
	g.Go(func() error {
		return times.measure("requests", func() (err error) {
			if p.tokenizer, err = r.tokenizer(cp); err != nil {
				return err
			}
			if p.work, err = r.work(p.tokenizer, cp.Config().MaxPositions); err != nil {
				return err
			}
			p.questions, err = p.work.ask(p.tokenizer, cp.Config(), r.name)
			return err
		})
	})
	g.Go(func() error {
		return times.measure("device", func() error {
			eng, err := r.engine()
			if err != nil {
				return err
			}
			p.info = eng.Info()
			p.scorer, err = eng.Scorer(cp.Config(), cp)
			return err
		})
	})
	err = g.Wait()
	return p, err
}

// tokenizer loads the checkpoint's tokenizer and checks that the model has a
// row for each of its tokens.
func (r run) tokenizer(cp *checkpoint.Checkpoint) (*tokenizer.Tokenizer, error) {
	tok, err := tokenizer.Load(r.dir)
	if err != nil {
		return nil, err
	}
	if n := tok.VocabSize(); n > cp.Config().VocabSize {
		return nil, ui.Inputf("%s: tokenizer.json: expected at most %d tokens (vocab_size of config.json), found %d; the tokenizer belongs to another model",
			r.dir, cp.Config().VocabSize, n)
	}
	return tok, nil
}

// work is what the model is asked.
func (r run) work(tok *tokenizer.Tokenizer, window int) (Work, error) {
	w := Work{
		Sets: r.sets, BatchTokens: r.BatchTokens, Files: r.Heldout,
		Progress: func(total int64) *ui.Progress {
			return ui.NewProgress(r.streams, total, "eval "+r.name, ui.Count("tokens"))
		},
	}
	if len(r.Heldout) == 0 {
		return w, nil
	}
	if r.RowLength > 0 {
		window = min(window, r.RowLength)
	}
	seqs, err := heldoutText(r.Heldout, tok, window)
	if r.Limit > 0 {
		seqs = seqs[:min(r.Limit, len(seqs))]
	}
	w.Heldout = seqs
	return w, err
}

// recordInputs notes the checksums of the task files.
func (r run) recordInputs(record *provenance.Record) error {
	for _, set := range r.sets {
		files := []string{set.File}
		if set.Name == TextTask {
			files = r.Text
		}
		for _, file := range files {
			if err := record.InputFile(file); err != nil {
				return err
			}
		}
	}
	return nil
}
