package eval

import (
	"math"
	"slices"
	"testing"

	"mlkv/internal/engine"
)

// Every token but the first is predicted once, each from the tokens before it
// in its window.
func TestWindows(t *testing.T) {
	for _, n := range []int{0, 1, 2, 7, 8, 9, 15, 16, 17, 100} {
		row := make([]int32, n)
		for i := range row {
			row[i] = int32(i)
		}
		var predicted []int32
		for _, w := range windows(row, 8) {
			if len(w) < 2 || len(w) > 9 {
				t.Errorf("%d tokens: a window of %d", n, len(w))
			}
			predicted = append(predicted, w[1:]...)
		}
		if want := row[min(n, 1):]; !slices.Equal(predicted, want) {
			t.Errorf("%d tokens: predicted %v, want %v", n, predicted, want)
		}
	}
}

// The figures against sums over single tokens.
func TestSummarize(t *testing.T) {
	r := newPyRandom(5)
	var seqs []sequence
	var sums [][]float64
	size := func(id int32) int { return int(id) % 5 }
	loss, tokens, bytes := 0.0, 0, 0
	perPosition := map[int][]float64{}
	for _, n := range []int{2, 65, 66, 130, 300, 2049} {
		seq := make(sequence, n)
		var s engine.Score
		for i := range seq {
			seq[i] = int32(r.below(50))
			if i == 0 {
				continue
			}
			ll := float32(-r.float64())
			s.LogLikelihood = append(s.LogLikelihood, ll)
			loss -= float64(ll)
			tokens++
			bytes += size(seq[i])
			perPosition[i-1] = append(perPosition[i-1], -float64(ll))
		}
		seqs, sums = append(seqs, seq), append(sums, bucketSums(s))
	}
	h, err := summarize(seqs, sums, size)
	if err != nil {
		t.Fatal(err)
	}
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s: %.12g, want %.12g", name, got, want)
		}
	}
	near("loss", h.Loss.Value, loss/float64(tokens))
	near("perplexity", h.Perplexity.Value, math.Exp(loss/float64(tokens)))
	near("bits a byte", h.BitsPerByte.Value, loss/math.Ln2/float64(bytes))
	if h.Tokens != tokens || h.Bytes != bytes || h.Sequences != len(seqs) {
		t.Errorf("%d tokens, %d bytes, %d sequences; want %d, %d, %d", h.Tokens, h.Bytes, h.Sequences, tokens, bytes, len(seqs))
	}
	next := 0
	for _, b := range h.Buckets {
		if b.From != next {
			t.Errorf("a range begins at %d, want %d", b.From, next)
		}
		next = b.To + 1
		sum, n := 0.0, 0
		for p := b.From; p <= b.To; p++ {
			for _, l := range perPosition[p] {
				sum += l
				n++
			}
		}
		near("loss of a range", b.Loss, sum/float64(n))
		if b.Tokens != n {
			t.Errorf("positions %d to %d: %d tokens, want %d", b.From, b.To, b.Tokens, n)
		}
	}
	if next != 2048 {
		t.Errorf("the ranges end at %d, want 2048", next)
	}
	if _, err := summarize([]sequence{{0, 0}}, [][]float64{{-1}}, func(int32) int { return 0 }); err == nil {
		t.Error("text of no bytes was accepted")
	}
}
