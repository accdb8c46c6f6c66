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
