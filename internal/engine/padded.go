package engine

import "fmt"

// Check reports how a batch departs from a trainer's shapes, or the first token
// or target that the model has no row for.
func (b Batch) Check(o TrainOptions, vocab int) error {
	if b.Rows != o.Rows || b.Length != o.Length {
		return fmt.Errorf("batch: expected %d rows of %d tokens, found %d of %d", o.Rows, o.Length, b.Rows, b.Length)
	}
	if err := CheckTokens(b.Tokens, vocab); err != nil {
		return err
	}
	for i, target := range b.Targets {
		if target != Ignore && (target < 0 || int(target) >= vocab) {
			return fmt.Errorf("target %d: id %d is outside the vocabulary of %d", i, target, vocab)
		}
	}
	return nil
}

// Padded are requests laid out as one batch: a row each, filled with token 0 at
// its end, and the positions whose next token is scored, in the order of the
// requests.
type Padded struct {
	Rows, Length int
	Tokens       []int32 // [Rows*Length]
	Index        []int32 // positions in Tokens
	Targets      []int32 // the token after each of Index; Ignore in the filling
}

// Pad lays requests out with lengths rounded up to a multiple of lengthStep, and
// the number of scored positions to one of pickedStep.
func Pad(reqs []Request, vocab, lengthStep, pickedStep int) (Padded, error) {
	p := Padded{Rows: len(reqs)}
	picked := 0
	for i, r := range reqs {
		if r.From < 1 || r.From >= len(r.Tokens) {
			return p, fmt.Errorf("request %d: scoring from token %d of %d: expected 1 to %d", i, r.From, len(r.Tokens), len(r.Tokens)-1)
		}
		if err := CheckTokens(r.Tokens, vocab); err != nil {
			return p, fmt.Errorf("request %d: %w", i, err)
		}
		p.Length = max(p.Length, len(r.Tokens)-1)
		picked += len(r.Tokens) - r.From
	}
	roundUp := func(n, step int) int { return (n + step - 1) / step * step }
	p.Length, picked = roundUp(p.Length, lengthStep), roundUp(picked, pickedStep)
	p.Tokens = make([]int32, p.Rows*p.Length)
	p.Index, p.Targets = make([]int32, 0, picked), make([]int32, 0, picked)
	for i, r := range reqs {
		last := len(r.Tokens) - 1
		copy(p.Tokens[i*p.Length:], r.Tokens[:last])
		for at := r.From; at <= last; at++ {
			p.Index = append(p.Index, int32(i*p.Length+at-1))
			p.Targets = append(p.Targets, r.Tokens[at])
		}
	}
	for len(p.Index) < picked {
		p.Index, p.Targets = append(p.Index, 0), append(p.Targets, Ignore)
	}
	return p, nil
}
