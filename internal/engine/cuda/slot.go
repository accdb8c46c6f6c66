//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"errors"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/engine/pack"
)

// slot carries one batch of a scorer to the device and its answers back, while
// the device works on another.
type slot struct {
	size   int // tokens and scored positions
	host   *gpu.Pinned[int32]
	device gpu.Ptr // the same numbers
	// answers: log-likelihoods, then greedy flags.
	likelihood *gpu.Pinned[float32]
	greedy     *gpu.Pinned[int32]
	done       gpu.Event
}

// slotInts is the size of a slot's inputs: tokens, positions, index, targets and
// queries, of which no more exist than tokens.
func slotInts(size int) int { return (4 + queryInts) * size }

func (l *slot) open(size int, device gpu.Ptr) error {
	l.size, l.device = size, device
	var err error
	if l.host, err = gpu.NewPinned[int32](slotInts(size)); err != nil {
		return err
	}
	if l.likelihood, err = gpu.NewPinned[float32](size); err != nil {
		return err
	}
	if l.greedy, err = gpu.NewPinned[int32](size); err != nil {
		return err
	}
	l.done, err = gpu.NewEvent(false)
	return err
}

// put sends a batch and makes it the input of an executor, whose blocks of
// attention take at most so many queries.
func (l *slot) put(x *executor, b pack.Batch, most int) error {
	n, h := l.size, l.host.Slice()
	at := func(i int) gpu.Ptr { return l.device + gpu.Ptr(4*i) }
	copy(h, b.Tokens)
	copy(h[n:], b.Positions)
	index, targets := h[2*n:3*n], h[3*n:4*n]
	clear(index[copy(index, b.Index):])
	clear(targets[copy(targets, b.Targets):])
	narrow, wide := divide(b, most)
	put(put(h[4*n:], wide), narrow)
	x.base.inputs = map[*matrix]gpu.Ptr{x.p.tokens: at(0), x.p.index: at(2 * n), x.p.targets: at(3 * n)}
	*x.segments = segments{
		positions: at(n), picked: len(b.Index),
		wide:   queryList{at(4 * n), len(wide)},
		narrow: queryList{at(4*n + queryInts*len(wide)), len(narrow)},
	}
	return l.host.Upload(x.stream, l.device, 0, 4*n+queryInts*(len(wide)+len(narrow)))
}

// fetch sends the answers back.
func (l *slot) fetch(x *executor) error {
	n := x.segments.picked
	return inOrder(
		func() error { return l.likelihood.Download(x.stream, x.ptr(x.p.likelihood), n) },
		func() error { return l.greedy.Download(x.stream, x.ptr(x.p.greedy), n) },
		func() error { return l.done.Record(x.stream) },
	)
}

// wait returns the answers to the batch's requests when they are there.
func (l *slot) wait(reqs []engine.Request) ([]engine.Score, error) {
	if err := l.done.Synchronize(); err != nil {
		return nil, err
	}
	likelihood, greedy := l.likelihood.Slice(), l.greedy.Slice()
	return pack.Answers(reqs, func(i int) (float32, bool) { return likelihood[i], greedy[i] == 1 }), nil
}

// close gives back what open made.
func (l *slot) close() error {
	var errs []error
	if l.host != nil {
		errs = append(errs, l.host.Free())
	}
	if l.likelihood != nil {
		errs = append(errs, l.likelihood.Free())
	}
	if l.greedy != nil {
		errs = append(errs, l.greedy.Free())
	}
	if l.done != (gpu.Event{}) {
		errs = append(errs, l.done.Destroy())
	}
	return errors.Join(errs...)
}
