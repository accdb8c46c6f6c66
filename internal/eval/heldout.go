package eval

import (
	"fmt"
	"math"
	"math/bits"

	"mlkv/internal/engine"
)

// bucketStarts are where the ranges of positions begin. A prediction's position
// is that of the token it is made at, from 0.
var bucketStarts = []int{0, 64, 128, 256, 512, 1024, 2048, 4096}

// bucketOf is the range that a position lies in.
func bucketOf(position int) int {
	return min(max(bits.Len(uint(position))-6, 0), len(bucketStarts)-1)
}

// sequence is a stretch of held-out text: every token but the first is
// predicted from those before it.
type sequence []int32

// windows cuts a row of tokens into sequences that a model can read, each of
// which begins with the last token of the one before, so that no prediction is
// lost or made twice.
func windows(row []int32, window int) []sequence {
	var out []sequence
	for len(row) > 1 {
		n := min(len(row), window+1)
		out = append(out, row[:n])
		row = row[n-1:]
	}
	return out
}

// request asks for every prediction of a sequence.
func (s sequence) request() engine.Request { return engine.Request{Tokens: s, From: 1} }

// bucketSums adds a sequence's log-likelihoods up by ranges of positions.
func bucketSums(s engine.Score) []float64 {
	sums := make([]float64, len(bucketStarts))
	for i, ll := range s.LogLikelihood {
		sums[bucketOf(i)] += float64(ll)
	}
	return sums
}

// Bucket is the loss of predictions at positions From to To.
type Bucket struct {
	From   int     `json:"from"`
	To     int     `json:"to"`
	Tokens int     `json:"tokens"`
	Loss   float64 `json:"loss"`
}

// Heldout is the loss on held-out text. Loss is in nats a token. Bytes are those
// of the predicted tokens' text; a token that ends a document has none.
type Heldout struct {
	Loss, Perplexity, BitsPerByte Estimate
	Tokens, Bytes, Sequences      int
	Buckets                       []Bucket
	Files                         []string
}

// summarize makes the figures of sequences from the sums of their buckets.
// size gives the bytes of a token's text.
func summarize(seqs []sequence, sums [][]float64, size func(int32) int) (Heldout, error) {
	h := Heldout{Sequences: len(seqs)}
	var losses, tokens []float64
	perBucket := make([]Bucket, len(bucketStarts))
	for i, seq := range seqs {
		loss := 0.0
		for b, sum := range sums[i] {
			loss -= sum
			perBucket[b].Loss -= sum
		}
		for p, next := range seq[1:] {
			perBucket[bucketOf(p)].Tokens++
			h.Bytes += size(next)
		}
		losses, tokens = append(losses, loss), append(tokens, float64(len(seq)-1))
		h.Tokens += len(seq) - 1
	}
	if h.Bytes == 0 {
		return h, fmt.Errorf("held-out text: expected text, found %d tokens that stand for none", h.Tokens)
	}
	h.Loss = ratio(losses, tokens)
	ppl := math.Exp(h.Loss.Value)
	h.Perplexity = Estimate{ppl, ppl * h.Loss.StdErr}
	bits := float64(h.Tokens) / float64(h.Bytes) / math.Ln2
	h.BitsPerByte = Estimate{h.Loss.Value * bits, h.Loss.StdErr * bits}
	for i, b := range perBucket {
		if b.Tokens == 0 {
			continue
		}
		b.From, b.To, b.Loss = bucketStarts[i], math.MaxInt, b.Loss/float64(b.Tokens)
		if i+1 < len(bucketStarts) {
			b.To = bucketStarts[i+1] - 1
		}
		b.To = min(b.To, longest(seqs)-2)
		h.Buckets = append(h.Buckets, b)
	}
	return h, nil
}

func longest(seqs []sequence) int {
	n := 0
	for _, s := range seqs {
		n = max(n, len(s))
	}
	return n
}

// ratio is the sum of ys over the sum of xs with the standard error of a ratio
// of two sample means (Cochran, Sampling Techniques, 2.11): sequences, not
// tokens, are taken as independent.
func ratio(ys, xs []float64) Estimate {
	n := float64(len(xs))
	r := average(ys) / average(xs)
	sum := 0.0
	for i := range xs {
		d := ys[i] - r*xs[i]
		sum += d * d
	}
	if len(xs) < 2 {
		return Estimate{r, math.NaN()}
	}
	return Estimate{r, math.Sqrt(sum/(n-1)/n) / average(xs)}
}
