package eval

import (
	"golang.org/x/sync/errgroup"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/provenance"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

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
