//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda"
	"mlkv/internal/infer"
	"mlkv/internal/model"
)

// onHost hides that a decoder chooses tokens itself.
type onHost struct{ engine.Decoder }

// TestSamplingMatchesTheHost: tokens drawn on the device are those that infer draws
// from the same logits.
func TestSamplingMatchesTheHost(t *testing.T) {
	if err := cuda.Available(); err != nil {
		t.Skipf("needs a GPU: %v", err)
	}
	e, err := cuda.Open(0, cuda.Options{Float32: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	cfg := model.Plain(5000, 64, 2, 1)
	cfg.MaxPositions = 64
	d, err := e.Decoder(cfg, fresh.New(cfg, 3), engine.DecodeOptions{Rows: 5, MaxSize: 60})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r := rand.New(rand.NewPCG(1, 2))
	prompts := make([][]int32, 5)
	for i := range prompts {
		for range 3 + i {
			prompts[i] = append(prompts[i], int32(r.IntN(cfg.VocabSize)))
		}
	}
	for _, s := range []infer.Sampling{
		{}, {Temperature: 1, Seed: 1}, {Temperature: 0.05, Seed: 2}, {Temperature: 1, TopP: 0.9, Seed: 3}, {Temperature: 0.7, TopP: 0.3, Seed: 1 << 40},
		{Temperature: 1, TopK: 50, Seed: 5}, {Temperature: 1.5, TopK: 10, TopP: 0.5, Seed: 6}, {Temperature: 1, TopK: 1, Seed: 7}, {Temperature: 1, TopK: 9999, Seed: 8},
	} {
		draw := func(d engine.Decoder) (tokens []int32) {
			o := infer.ContinueOptions{Sampling: s, MaxTokens: 40, FirstRow: 3}
			if err := infer.Continue(t.Context(), d, prompts, o, func(row int, token int32) (bool, error) {
				tokens = append(tokens, token)
				return false, nil
			}); err != nil {
				t.Fatal(err)
			}
			return tokens
		}
		if got, want := draw(d), draw(onHost{d}); !slices.Equal(got, want) {
			t.Errorf("%+v: drew\n%v, want\n%v", s, got, want)
		}
	}
}
