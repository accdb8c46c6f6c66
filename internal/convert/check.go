package convert

import (
	"context"
	"fmt"

	"mlkv/internal/checkpoint"
	"mlkv/internal/data"
	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// Check is the loss of a fixed batch before and after a conversion: the mean
// negative log-likelihood of a token, in nats.
type Check struct {
	Rows   int     `json:"rows"`
	Tokens int     `json:"tokens"` // scored ones
	Before float64 `json:"loss_before"`
	After  float64 `json:"loss_after"`
	Device string  `json:"device"`
}

// check scores the first rows of o.Check with the source and with the result
// in dir.
func check(ctx context.Context, src *checkpoint.Checkpoint, dir string, o Options, s ui.Streams) (*Check, error) {
	rows, _, err := readRows(o.Check, amount{rows: o.CheckRows}, o.Source, data.LoaderOptions{})
	if err != nil {
		return nil, err
	}
	dst, err := checkpoint.Open(dir)
	if err != nil {
		return nil, err
	}
	defer dst.Close()
	reqs, err := requests(rows, src.Config(), o.Check)
	if err != nil {
		return nil, err
	}
	e, err := o.Engine()
	if err != nil {
		return nil, err
	}
	defer e.Close()
	c := &Check{Rows: len(rows), Device: e.Info().Device}
	progress := ui.NewProgress(s, int64(2*len(reqs)), "check", ui.Count("rows"))
	defer progress.Done()
	if c.Before, c.Tokens, err = loss(ctx, e, src, reqs, progress); err != nil {
		return nil, fmt.Errorf("check: score the source: %w", err)
	}
	if c.After, _, err = loss(ctx, e, dst, reqs, progress); err != nil {
		return nil, fmt.Errorf("check: score the result: %w", err)
	}
	return c, nil
}

// requests asks for the likelihood of every token of a row but its first. Rows
// are cut at the longest input that the model was made for.
func requests(rows [][]uint16, cfg model.Config, paths []string) ([]engine.Request, error) {
	var out []engine.Request
	for i, row := range rows {
		row = row[:min(len(row), cfg.MaxPositions+1)]
		if len(row) < 2 {
			continue
		}
		tokens := make([]int32, len(row))
		for j, t := range row {
			tokens[j] = int32(t)
		}
		if err := engine.CheckTokens(tokens, cfg.VocabSize); err != nil {
			return nil, ui.Inputf("%v: row %d: %w; the shards belong to another tokenizer", paths, i, err)
		}
		out = append(out, engine.Request{Tokens: tokens, From: 1})
	}
	if len(out) == 0 {
		return nil, ui.Inputf("%v: expected rows of at least 2 tokens to score, found none", paths)
	}
	return out, nil
}

// loss is the mean negative log-likelihood of the requests' tokens, and how
// many there are.
func loss(ctx context.Context, e engine.Engine, c *checkpoint.Checkpoint, reqs []engine.Request, progress *ui.Progress) (float64, int, error) {
	scorer, err := e.Scorer(c.Config(), c)
	if err != nil {
		return 0, 0, err
	}
	defer scorer.Close()
	sum, n := 0.0, 0
	for _, req := range reqs {
		scores, err := scorer.Score(ctx, []engine.Request{req})
		if err != nil {
			return 0, 0, err
		}
		sum -= scores[0].Sum()
		n += len(scores[0].LogLikelihood)
		progress.Add(1)
	}
	return sum / float64(n), n, nil
}
