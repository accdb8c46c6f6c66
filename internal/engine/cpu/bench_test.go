package cpu

import (
	"math/rand/v2"
	"testing"
	"time"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// sgemmRate is the machine's own rate of float32 products in floating-point
// operations a second: 2048^3 on all threads.
func sgemmRate(b *testing.B) float64 {
	const n = 2048
	r := rand.New(rand.NewPCG(1, 1))
	x, y := make([]float32, n*n), make([]float32, n*n)
	for i := range x {
		x[i], y[i] = float32(r.NormFloat64()), float32(r.NormFloat64())
	}
	z := make([]float32, n*n)
	best := 0.0
	for range 4 {
		start := time.Now()
		blas.Gemm(blas.AsIs, blas.AsIs, 1, blas.Dense(n, n, x), blas.Dense(n, n, y), 0, blas.Dense(n, n, z))
		best = max(best, 2*n*n*n/time.Since(start).Seconds())
	}
	return best
}

// BenchmarkTrainStep times a step of the Pythia-70M shape and reports its rate
// beside that of plain products in the same run.
func BenchmarkTrainStep(b *testing.B) {
	cfg, err := model.Sized("pythia-70m")
	if err != nil {
		b.Fatal(err)
	}
	const rows, length = 4, 512
	tr, err := Open(0).Trainer(cfg, random(cfg, 1), engine.TrainOptions{Rows: rows, Length: length,
		Optimizer: engine.AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.01, Decay: engine.DecayMatrices, Clip: 1}})
	if err != nil {
		b.Fatal(err)
	}
	batch := engine.Batch{Rows: rows, Length: length, Tokens: randomTokens(rows*length, cfg.VocabSize, 1), Targets: randomTokens(rows*length, cfg.VocabSize, 2)}
	rate := sgemmRate(b)
	for b.Loop() {
		if err := tr.Accumulate(background, batch); err != nil {
			b.Fatal(err)
		}
		if _, err := tr.Update(background, 1e-4); err != nil {
			b.Fatal(err)
		}
	}
	report(b, rate, cfg.TrainingFLOPs(length)*rows*length, rows*length)
}

// BenchmarkScore times a scoring pass of the Pythia-70M shape in which every
// position is scored.
func BenchmarkScore(b *testing.B) {
	cfg, err := model.Sized("pythia-70m")
	if err != nil {
		b.Fatal(err)
	}
	const rows, length = 8, 512
	s, err := Open(0).Scorer(cfg, random(cfg, 1))
	if err != nil {
		b.Fatal(err)
	}
	var reqs []engine.Request
	for r := range rows {
		reqs = append(reqs, engine.Request{Tokens: randomTokens(length+1, cfg.VocabSize, uint64(r)), From: 1})
	}
	rate := sgemmRate(b)
	for b.Loop() {
		if _, err := s.Score(background, reqs); err != nil {
			b.Fatal(err)
		}
	}
	report(b, rate, cfg.TrainingFLOPs(length)/3*rows*length, rows*length)
}

func report(b *testing.B, rate, flops float64, tokens int) {
	seconds := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(flops/seconds/1e9, "GFLOP/s")
	b.ReportMetric(rate/1e9, "SGEMM-GFLOP/s")
	b.ReportMetric(100*flops/seconds/rate, "%of-SGEMM")
	b.ReportMetric(float64(tokens)/seconds, "tokens/s")
}

// copier measures the rate in bytes a second at which all threads copy memory far
// larger than the caches, what is read and what is written counted.
type copier struct{ from, to []float32 }

func newCopier() copier {
	const n = 64 << 20
	c := copier{make([]float32, n), make([]float32, n)}
	c.seconds() // the system hands pages out when they are first touched
	return c
}

func (c copier) bytes() float64 { return float64(2 * 4 * len(c.from)) }

func (c copier) seconds() float64 {
	start := time.Now()
	blas.Chunks(len(c.from), 1<<16, func(lo, hi int) { copy(c.to[lo:hi], c.from[lo:hi]) })
	return time.Since(start).Seconds()
}

// BenchmarkDecode times a step of the Pythia-160M shape at batch 1 with 1,000 tokens
// in the cache, and compares the rate at which it reads weights and cache with that
// of copies made in turn with it.
func BenchmarkDecode(b *testing.B) {
	cfg, err := model.Sized("pythia-160m")
	if err != nil {
		b.Fatal(err)
	}
	const filled, steps = 1000, 16
	dec, err := Open(0).Decoder(cfg, random(cfg, 1), engine.DecodeOptions{Rows: 1, MaxSize: filled + steps})
	if err != nil {
		b.Fatal(err)
	}
	defer dec.Close()
	copies, copying := newCopier(), 0.0
	for b.Loop() {
		b.StopTimer()
		if err := dec.Fill(background, filled, 1); err != nil {
			b.Fatal(err)
		}
		copying += copies.seconds()
		b.StartTimer()
		if _, err := dec.Extend(background, []int32{1}, steps); err != nil {
			b.Fatal(err)
		}
	}
	seconds := b.Elapsed().Seconds() / float64(b.N*steps)
	moved := float64((cfg.Parameters()-cfg.VocabSize*cfg.HiddenSize)*4 + cfg.KVBytes(1, filled, 4))
	rate := copies.bytes() * float64(b.N) / copying
	b.ReportMetric(moved/seconds/1e9, "GB/s")
	b.ReportMetric(rate/1e9, "copy-GB/s")
	b.ReportMetric(100*moved/seconds/rate, "%of-copy")
	b.ReportMetric(1/seconds, "tokens/s")
}
