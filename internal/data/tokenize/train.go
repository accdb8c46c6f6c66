package tokenize

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"mlkv/internal/data/source"
	"mlkv/internal/outdir"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// TrainOptions say what a tokenizer is learned from.
type TrainOptions struct {
	Inputs  []string // files and folders, as for prepare
	Globs   []string
	TextKey string
	Vocab   int    // number of ids
	Out     string // the tokenizer.json to write
	Force   bool   // replace Out
}

// Train learns a tokenizer and writes it to TrainOptions.Out. Any input that
// cannot be read is an error, but for files of a folder that are no text.
func Train(ctx context.Context, o TrainOptions, s ui.Streams) error {
	if o.Out == "" {
		return ui.Usagef("tokenize train: --out: expected the tokenizer.json to write")
	}
	if _, err := os.Stat(o.Out); !errors.Is(err, fs.ErrNotExist) && !o.Force {
		return ui.Usagef("tokenize train: %s exists; choose another name or pass --force to replace it", o.Out)
	}
	if o.Vocab < tokenizer.MinVocab || o.Vocab > tokenizer.MaxVocab {
		return ui.Usagef("tokenize train: --vocab: expected %d to %d, found %d", tokenizer.MinVocab, tokenizer.MaxVocab, o.Vocab)
	}
	inputs, err := source.Find(o.Inputs, source.Options{Globs: o.Globs, TextKey: o.TextKey})
	if err != nil {
		return err
	}
	file, err := tokenizer.Train(texts(ctx, inputs, s), o.Vocab)
	if err != nil {
		return err
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		return fmt.Errorf("tokenize train: the result does not read back: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(o.Out), 0o777); err != nil {
		return fmt.Errorf("tokenize train: %w", err)
	}
	if err := outdir.WriteFile(o.Out, file); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "%s: vocabulary %d, SHA-256 %s\n", o.Out, tok.VocabSize(), tok.Checksum())
	return err
}

// texts reads the documents of all inputs with a progress bar.
func texts(ctx context.Context, inputs []source.Input, s ui.Streams) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var total, before int64
		for _, in := range inputs {
			total += in.Bytes
		}
		progress := ui.NewProgress(s, total, "read", ui.Bytes)
		defer progress.Done()
		for _, in := range inputs {
			more := input(ctx, in, yield, func(n int64) { progress.Set(before + n) })
			if !more {
				return
			}
			before += in.Bytes
		}
	}
}

// input yields the documents of one input; false ends the reading.
func input(ctx context.Context, in source.Input, yield func(string, error) bool, read func(int64)) bool {
	src, err := in.Open()
	if err != nil {
		yield("", ui.Inputf("%w", err))
		return false
	}
	defer src.Close()
	for {
		block, err := src.Next()
		if err == io.EOF {
			return true
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield("", ui.Inputf("%w", err))
			return false
		}
		for doc, err := range block.Documents() {
			var skipped *source.Skipped
			switch {
			case errors.As(err, &skipped):
				continue
			case err != nil:
				yield("", ui.Inputf("%w", err))
				return false
			case doc.Tokens != nil:
				yield("", ui.Inputf("%s: expected text, found token ids", in.Path))
				return false
			}
			if !yield(doc.Text, nil) {
				return false
			}
		}
		read(block.Read())
	}
}
