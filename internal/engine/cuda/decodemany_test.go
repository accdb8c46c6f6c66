//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"slices"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// TestManyRowsOfRealWidth: steps of few and of many rows, tiles at the ends of rows and
// columns among them, give the logits of float32, and the tokens that a step chooses
// are the most likely ones.
func TestManyRowsOfRealWidth(t *testing.T) {
	cfg := benchModels(t)["MLKV-6"]
	cfg.Layers, cfg.VocabSize = 2, 5008
	var err error
	if cfg.Owner, err = model.ContiguousOwners(2, 1); err != nil {
		t.Fatal(err)
	}
	w := randomWeights(cfg, 3)
	scaleDown(w, cfg)
	rounded, exact := openGPU(t, Options{}), openGPU(t, Options{Float32: true})
	for _, rows := range []int{1, 5, 16, 17, 250, 600} {
		t.Run(fmt.Sprintf("%d rows", rows), func(t *testing.T) {
			var prompts [][]int32
			for r := range rows {
				prompts = append(prompts, testBatch(cfg, 1, 1+r%70, uint64(r)).Tokens)
			}
			next := [][]int32{testBatch(cfg, 1, rows, 100).Tokens, testBatch(cfg, 1, rows, 101).Tokens}
			want := play(t, newDecoder(t, exact, cfg, w, engine.DecodeOptions{Rows: rows, MaxSize: 80}), prompts, next)
			for _, bits := range []int{16, 8} {
				d := newDecoder(t, rounded, cfg, w, engine.DecodeOptions{Rows: rows, MaxSize: 80, CacheBits: bits})
				got := play(t, d, prompts, next)
				far, where := farthest(got, want, cfg.VocabSize)
				what := fmt.Sprintf("%d bits: %s deviates by %.3g", bits, where, far)
				if !(far <= 1e-2) {
					t.Errorf("%s, at most 0.01 is expected", what)
				} else {
					t.Log(what)
				}
				play(t, d, prompts, nil)
				chosen, err := d.Extend(t.Context(), next[0], 1)
				if err != nil {
					t.Fatal(err)
				}
				for r, c := range chosen {
					row := got[1][r*cfg.VocabSize : (r+1)*cfg.VocabSize]
					if most := slices.Max(row); !(row[c] >= most-1e-5*max(most, -most)) {
						t.Errorf("%d bits: row %d chose token %d with logit %g, the greatest is %g", bits, r, c, row[c], most)
						break
					}
				}
			}
		})
	}
}
