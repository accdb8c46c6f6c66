package infer

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"mlkv/internal/engine"
)

// Sampling says how the next token is chosen from logits.
type Sampling = engine.Sampling

var errNaN = errors.New("the model's logits are not numbers: its weights are damaged or overflow")

// Greedy returns the first index of the greatest logit.
func Greedy(logits []float32) (int32, error) {
	best := 0
	for i, l := range logits {
		if l != l {
			return 0, errNaN
		}
		if l > logits[best] {
			best = i
		}
	}
	return int32(best), nil
}

// A Sampler chooses tokens. Its buffers are reused, so it serves one goroutine.
type Sampler struct {
	Sampling
	weights []candidate
}

type candidate struct {
	token  int32
	weight float64 // relative probability, at most 1
}

// Pick chooses a token from logits [vocab] with u from [0, 1): the first whose
// cumulative probability exceeds u, in the order of ids or, where TopK or TopP
// cut, in the order of falling probability.
func (s *Sampler) Pick(logits []float32, u float64) (int32, error) {
	top, err := Greedy(logits)
	if err != nil || s.Temperature == 0 {
		return top, err
	}
	greatest := float64(logits[top])
	s.weights = s.weights[:0]
	for i, l := range logits {
		s.weights = append(s.weights, candidate{int32(i), math.Exp((float64(l) - greatest) / s.Temperature)})
	}
	kept := s.cut(s.weights)
	target, sum := u*total(kept), 0.0
	for _, c := range kept {
		if sum += c.weight; sum > target {
			return c.token, nil
		}
	}
	return top, nil
}

// cut applies TopK and TopP.
func (s *Sampler) cut(cs []candidate) []candidate {
	byP := s.TopP > 0 && s.TopP < 1
	if s.TopK == 0 && !byP {
		return cs
	}
	slices.SortFunc(cs, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.token, b.token))
	})
	if s.TopK > 0 && s.TopK < len(cs) {
		cs = cs[:s.TopK]
	}
	if !byP {
		return cs
	}
	limit, sum := s.TopP*total(cs), 0.0
	for i, c := range cs {
		if sum += c.weight; sum >= limit {
			return cs[:i+1]
		}
	}
	return cs
}

func total(cs []candidate) float64 {
	sum := 0.0
	for _, c := range cs {
		sum += c.weight
	}
	return sum
}
