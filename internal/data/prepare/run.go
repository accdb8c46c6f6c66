package prepare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"mlkv/internal/data"
	"mlkv/internal/data/source"
	"mlkv/internal/outdir"
	"mlkv/internal/provenance"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// saveEvery is how much work an interruption loses at most.
var saveEvery = 15 * time.Second

// Run prepares Options.Inputs into the folder Options.Out, which appears when it
// is complete. A preparation that was killed or interrupted goes on when Run is
// called again with the same inputs and options; what is written is the same as
// without the interruption. Bad input leaves nothing behind unless more than a
// saveEvery of work is in it.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	tok, err := tokenizer.Load(o.Tokenizer)
	if err != nil {
		return err
	}
	inputs, err := source.Find(o.Inputs, source.Options{
		Globs: o.Globs, TextKey: o.TextKey, WholeRows: o.Packing == data.Rows, Tokenizer: tok.Checksum(),
	})
	if err != nil {
		return err
	}
	job, err := jobOf(o, inputs, tok.Checksum())
	if err != nil {
		return err
	}
	out, err := outdir.Create(o.Out, o.Force)
	if err != nil {
		return err
	}
	defer out.Abort()
	w, err := openWork(o.Out)
	if err != nil {
		return err
	}
	defer w.close()
	m, err := fillWork(ctx, o, job, w, tok, inputs, s)
	if err != nil {
		return err
	}
	if err := publish(w.folder, out); err != nil {
		return err
	}
	if err := w.remove(); err != nil {
		return err
	}
	if o.JSON {
		b, err := m.JSON()
		if err == nil {
			_, err = s.Out.Write(b)
		}
		return err
	}
	return show(m, o, s)
}

// fillWork brings the work folder to its end and returns the manifest of the
// training part. What an earlier run of the same job left is used.
func fillWork(ctx context.Context, o Options, job string, w *work, tok *tokenizer.Tokenizer, inputs []source.Input, s ui.Streams) (*data.Manifest, error) {
	record := provenance.New(o)
	record.Seed("documents", o.Seed)
	j, err := w.journal(job, o)
	if err != nil {
		return nil, err
	}
	if j != nil && j.Done {
		return data.ReadManifest(w.folder)
	}
	p, err := begin(&o, w, tok, inputs, j, s)
	if err != nil {
		return nil, err
	}
	defer p.close()
	saved, err := p.run(ctx, tok, job, s)
	switch {
	case errors.Is(err, ui.ErrInterrupted):
		fmt.Fprintf(s.Err, "prepare: interrupted; the same command goes on from here (state in %s)\n", w.folder)
		return nil, err
	case err != nil && saved && ui.ExitCode(err) == ui.ExitInput:
		return nil, fmt.Errorf("%w\nwhat was prepared is kept in %s; the same command goes on from there", err, w.folder)
	case err != nil:
		return nil, errors.Join(err, w.remove())
	}
	record.Finish()
	m, err := p.writeManifests(func(m *data.Manifest) {
		m.Tokenizer = data.TokenizerInfo{Path: o.Tokenizer, SHA256: tok.Checksum(), VocabSize: tok.VocabSize()}
		m.Provenance = record
	})
	if err == nil {
		err = (&journal{Job: job, Done: true}).write(w.folder)
	}
	if err != nil {
		return nil, errors.Join(err, w.remove())
	}
	return m, nil
}

// begin makes a packing, from the journal where it is not nil.
func begin(o *Options, w *work, tok *tokenizer.Tokenizer, inputs []source.Input, j *journal, s ui.Streams) (*packing, error) {
	p, err := newPacking(o, tok, inputs, w.folder)
	if err != nil {
		return nil, err
	}
	if j == nil {
		if err := checkSpace(w.folder, inputs, o); err != nil {
			return nil, errors.Join(err, w.remove())
		}
		j = &journal{progressState: p.progressState}
	} else {
		fmt.Fprintf(s.Err, "prepare: goes on from input %d of %d, %s documents done\n", j.Next.Input+1, len(inputs), ui.FormatInt(j.Taken))
	}
	if err := p.resume(j); err != nil {
		return nil, err
	}
	if p.seen != nil {
		return p, p.seen.open(j.Seen)
	}
	return p, nil
}

// run reads and packs everything. saved says whether the journal was written.
func (p *packing) run(ctx context.Context, tok *tokenizer.Tokenizer, job string, s ui.Streams) (saved bool, err error) {
	var before, total int64
	for i, in := range p.inputs {
		if i < p.Next.Input {
			before += in.Bytes
		}
		total += in.Bytes
	}
	progress := ui.NewProgress(s, total, "prepare", ui.Bytes)
	defer progress.Done()
	progress.Start(before)

	inner, cancel := context.WithCancel(ctx)
	r := startReader(inner, p.inputs, p.Next, p.o.Workers)
	startWorkers(p.o, tok, r)
	defer r.group.Wait()
	defer cancel()

	last, input := time.Now(), p.Next.Input
	for t := range r.order {
		result, err := await(ctx, t)
		if err != nil {
			break
		}
		for ; input < t.Input; input++ {
			before += p.inputs[input].Bytes
		}
		if t.block != nil {
			progress.Set(before + t.block.Read())
		}
		err = p.take(t, result)
		r.budget.Release(t.weight)
		buffers.Put(&result.tokens)
		if errors.Is(err, errLimit) {
			return saved, p.finish()
		}
		if err != nil {
			return saved, err
		}
		if time.Since(last) >= saveEvery {
			if err := p.save(job); err != nil {
				return saved, err
			}
			last, saved = time.Now(), true
		}
	}
	if ctx.Err() != nil {
		if err := p.save(job); err != nil {
			return saved, err
		}
		return true, ui.ErrInterrupted
	}
	return saved, p.finish()
}

// await waits for the result of a task.
func await(ctx context.Context, t *task) (*result, error) {
	select {
	case r := <-t.result:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// publish gives the files of the work folder a second name in the output folder
// and makes that visible; so a crash in between loses nothing.
func publish(folder string, out *outdir.Dir) error {
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		target := filepath.Join(out.Path(), rel)
		switch {
		case rel == ".":
			return nil
		case e.IsDir():
			return os.Mkdir(target, 0o777)
		case e.Name() == seenName, e.Name() == journalName:
			return nil
		}
		if os.Link(path, target) == nil {
			return nil
		}
		return os.Rename(path, target) // a file system without links
	})
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return out.Commit()
}

// show writes the result as a table.
func show(m *data.Manifest, o Options, s ui.Streams) error {
	table := ui.NewTable("set", "documents", "tokens", "bytes", "bytes/token")
	row := func(name string, c data.Count) {
		perToken := ui.Cell{}
		if c.Tokens > 0 {
			perToken = ui.Fixed(float64(c.Bytes)/float64(c.Tokens), 2)
		}
		table.Row(name, ui.Integer(c.Documents), ui.Integer(c.Tokens), ui.Integer(c.Bytes), perToken)
	}
	for _, name := range m.SetNames() {
		if len(m.Sets) > 1 || name != "" {
			row(name, m.Sets[name])
		}
	}
	row("all", m.Count)
	if err := table.Text(s.Out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.Out, "\n%s rows of %d + 1 tokens (%s packing), shards in %s: %d\ndropped: %s\n",
		ui.FormatInt(m.Rows), m.RowLength, m.Packing, o.Out, len(m.Shards), describeDropped(m.Dropped))
	return err
}
