package eval

import (
	"math"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// bootstrapDraws is how often the harness resamples where it has no formula
// for a standard error (its bootstrap_iters).
const bootstrapDraws = 100_000

// Estimate is a score with its standard error; NaN where there is none, as
// with a single document.
type Estimate struct {
	Value, StdErr float64
}

// mean is the average of per-document scores. Its standard error is the sample
// standard deviation over the square root of their number.
func mean(xs []float64) Estimate {
	return Estimate{average(xs), sampleDeviation(xs) / math.Sqrt(float64(len(xs)))}
}

// perplexity is exp of the negative mean of log-likelihoods. Its standard error
// is the deviation over the harness's own resamplings (api/metrics.py,
// bootstrap_stderr): draws in chunks of 1000, chunk i from Random(i), so equal
// log-likelihoods give the harness's figure.
func perplexity(lls []float64) Estimate {
	return Estimate{math.Exp(-average(lls)), bootstrap(lls, bootstrapDraws)}
}

// bootstrap is the sample deviation of the perplexity over the given number of
// resamplings.
func bootstrap(lls []float64, draws int) float64 {
	if len(lls) < 2 {
		return math.NaN()
	}
	chunk := min(1000, draws)
	all := make([]float64, draws/chunk*chunk)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range draws / chunk {
		g.Go(func() error {
			resample(lls, newPyRandom(uint32(i)), all[i*chunk:(i+1)*chunk])
			return nil
		})
	}
	g.Wait()
	return sampleDeviation(all)
}

// resample fills out with perplexities of random.choices(lls, k=len(lls)).
func resample(lls []float64, r *pyRandom, out []float64) {
	n := float64(len(lls))
	for d := range out {
		sum := 0.0
		for left := len(lls); left > 0; {
			words := r.pairs(left)
			left -= len(words) / 2
			for i := 1; i < len(words); i += 2 {
				sum += lls[int(unit(words[i-1], words[i])*n)]
			}
		}
		out[d] = math.Exp(-sum / n)
	}
}

func average(xs []float64) float64 {
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return sum / float64(len(xs))
}

// sampleDeviation is the standard deviation with n-1 in the denominator, NaN
// for fewer than two values.
func sampleDeviation(xs []float64) float64 {
	if len(xs) < 2 {
		return math.NaN()
	}
	m, sum := average(xs), 0.0
	for _, x := range xs {
		sum += (x - m) * (x - m)
	}
	return math.Sqrt(sum / float64(len(xs)-1))
}

// first is the index of the first greatest value, as numpy.argmax gives it.
func first(xs []float64) int {
	best := 0
	for i, x := range xs {
		if x > xs[best] {
			best = i
		}
	}
	return best
}
