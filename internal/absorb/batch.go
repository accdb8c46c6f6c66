package absorb

import (
	"slices"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// batchTokens is about how many tokens are run at once.
const batchTokens = 2048

// batch is rows of tokens laid out for a collector.
type batch struct {
	rows, length int
	tokens       []int32 // [rows*length]
	used         []int   // tokens of each row; what follows is padding
	counted      int
}

// pieceTokens is the greatest length at which calibration rows are run; what
// attention costs grows with it.
const pieceTokens = 1024

// newBatches lays calibration rows out in batches of one shape. Rows longer
// than pieceTokens or the model's positions are run in pieces. Errors carry
// ui.ExitInput.
func newBatches(cfg model.Config, rows [][]int32) ([]batch, error) {
	longest, length, total := min(pieceTokens, cfg.MaxPositions), 0, 0
	var pieces [][]int32
	for i, row := range rows {
		if err := engine.CheckTokens(row, cfg.VocabSize); err != nil {
			return nil, ui.Inputf("calibration: row %d: %w; the text belongs to another tokenizer", i, err)
		}
		length, total = max(length, min(len(row), longest)), total+len(row)
		pieces = slices.AppendSeq(pieces, slices.Chunk(row, longest))
	}
	if err := checkTokens(cfg, total); err != nil {
		return nil, ui.Inputf("calibration: %w", err)
	}
	perBatch := max(1, min(len(pieces), batchTokens/length))
	var out []batch
	for some := range slices.Chunk(pieces, perBatch) {
		out = append(out, newBatch(some, perBatch, length))
	}
	return out, nil
}

// newBatch lays out at most n rows of at most length tokens.
func newBatch(rows [][]int32, n, length int) batch {
	b := batch{rows: n, length: length, tokens: make([]int32, n*length)}
	for r, row := range rows {
		copy(b.tokens[r*length:], row)
		b.used = append(b.used, len(row))
		b.counted += len(row)
	}
	return b
}

// pack leaves the padding out of activations of the given width.
func (b batch) pack(x []float32, width int) []float32 {
	if b.counted*width == len(x) {
		return x
	}
	out := make([]float32, 0, b.counted*width)
	for r, n := range b.used {
		out = append(out, x[r*b.length*width:(r*b.length+n)*width]...)
	}
	return out
}

// inputs packs activations of h channels and puts a constant 1 behind them,
// [counted, h+1]. It uses the memory of room where that is enough.
func (b batch) inputs(x []float32, h int, room []float64) blas.Matrix[float64] {
	x = b.pack(x, h)
	out := slices.Grow(room[:0], b.counted*(h+1))[:b.counted*(h+1)]
	blas.Chunks(b.counted, 64, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			to := out[t*(h+1) : (t+1)*(h+1)]
			for i, v := range x[t*h : (t+1)*h] {
				to[i] = float64(v)
			}
			to[h] = 1
		}
	})
	return blas.Dense(b.counted, h+1, out)
}
