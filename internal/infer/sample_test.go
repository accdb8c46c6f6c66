package infer

import (
	"math"
	"testing"
)

// Known answers of the Random123 library, file kat_vectors.
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := philox(c.counter, c.key); got != c.want {
			t.Errorf("philox(%x, %x) = %x, want %x", c.counter, c.key, got, c.want)
		}
	}
}

func TestUniformIsUniform(t *testing.T) {
	const n = 100_000
	var bins [10]int
	for step := range n {
		u := Uniform(42, step%7, step)
		if u < 0 || u >= 1 {
			t.Fatalf("Uniform gave %g", u)
		}
		bins[int(u*10)]++
	}
	for b, c := range bins {
		// Five standard deviations of a binomial count.
		if d := math.Abs(float64(c) - n/10); d > 5*math.Sqrt(n*0.09) {
			t.Errorf("bin %d holds %d of %d", b, c, n)
		}
	}
}

// share measures how much of [0, 1) each token is picked for.
func share(t *testing.T, s Sampling, logits []float32) []float64 {
	t.Helper()
	const n = 20_000
	sampler := Sampler{Sampling: s}
	out := make([]float64, len(logits))
	for i := range n {
		token, err := sampler.Pick(logits, (float64(i)+0.5)/n)
		if err != nil {
			t.Fatal(err)
		}
		out[token] += 1.0 / n
	}
	return out
}

func TestPickFollowsTheDistribution(t *testing.T) {
	logits := []float32{float32(math.Log(0.1)), float32(math.Log(0.4)), float32(math.Log(0.3)), float32(math.Log(0.2))}
	for _, c := range []struct {
		name string
		s    Sampling
		want []float64
	}{
		{"all", Sampling{Temperature: 1}, []float64{0.1, 0.4, 0.3, 0.2}},
		{"greedy", Sampling{}, []float64{0, 1, 0, 0}},
		{"temperature 2", Sampling{Temperature: 2}, roots(0.1, 0.4, 0.3, 0.2)},
		{"top 2", Sampling{Temperature: 1, TopK: 2}, []float64{0, 4. / 7, 3. / 7, 0}},
		{"top 9 of 4", Sampling{Temperature: 1, TopK: 9}, []float64{0.1, 0.4, 0.3, 0.2}},
		{"nucleus 0.65", Sampling{Temperature: 1, TopP: 0.65}, []float64{0, 4. / 7, 3. / 7, 0}},
		{"nucleus 0.75", Sampling{Temperature: 1, TopP: 0.75}, []float64{0, 4. / 9, 3. / 9, 2. / 9}},
		{"tiny nucleus keeps one", Sampling{Temperature: 1, TopP: 1e-9}, []float64{0, 1, 0, 0}},
		{"top 3, then nucleus 0.7 of what is left", Sampling{Temperature: 1, TopK: 3, TopP: 0.7}, []float64{0, 4. / 7, 3. / 7, 0}},
	} {
		got := share(t, c.s, logits)
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 1e-3 {
				t.Errorf("%s: token %d has share %.4f, want %.4f", c.name, i, got[i], c.want[i])
			}
		}
	}
}

// roots is the distribution proportional to the square roots of p.
func roots(p ...float64) []float64 {
	sum := 0.0
	for i := range p {
		p[i] = math.Sqrt(p[i])
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

func TestGreedy(t *testing.T) {
	if got, _ := Greedy([]float32{-3, 2, 2, 1}); got != 1 {
		t.Errorf("of equal logits, token %d was chosen; want the first", got)
	}
	if _, err := Greedy([]float32{0, float32(math.NaN())}); err == nil {
		t.Error("a logit that is no number was accepted")
	}
}

func TestSamplingValidate(t *testing.T) {
	for _, s := range []Sampling{{Temperature: -1}, {Temperature: math.NaN()}, {TopK: -1}, {TopP: 1.5}, {TopP: math.NaN()}} {
		if s.Validate() == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
	if err := (Sampling{Temperature: 0.7, TopK: 40, TopP: 0.95}).Validate(); err != nil {
		t.Error(err)
	}
}
