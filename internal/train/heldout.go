package train

import (
	"context"

	"mlkv/internal/data"
	"mlkv/internal/engine"
)

// heldout is a fixed set of rows that are scored but not trained on.
type heldout struct {
	rows [][]uint16
}

// newHeldout takes n rows of the loader, spread evenly over all of it; all of
// them where n is 0 or beyond their number. The rows are valid until the
// loader is closed.
func newHeldout(l *data.Loader, n int) (*heldout, error) {
	total := l.Rows()
	take := total
	if n > 0 {
		take = min(total, int64(n))
	}
	h := &heldout{}
	for i := range take {
		if err := l.Seek(data.Position{Row: i * total / take}); err != nil {
			return nil, err
		}
		row, err := l.Next()
		if err != nil {
			return nil, err
		}
		h.rows = append(h.rows, row)
	}
	return h, nil
}

// loss is the mean loss over all targets of the set and their number. It calls
// progress with the share of rows that are done.
func (h *heldout) loss(ctx context.Context, t engine.Trainer, microRows, length int, progress func(done float64)) (loss float64, tokens int, err error) {
	sum := 0.0
	for at := 0; at < len(h.rows); at += microRows {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		// The trainer's shape is fixed: the last batch is filled with rows
		// that count nothing.
		batch := make([][]uint16, microRows)
		copy(batch, h.rows[at:])
		s, n, err := t.Loss(ctx, engine.NewBatch(batch, length))
		if err != nil {
			return 0, 0, err
		}
		sum += s
		tokens += n
		progress(float64(min(at+microRows, len(h.rows))) / float64(len(h.rows)))
	}
	return sum / float64(tokens), tokens, nil
}
