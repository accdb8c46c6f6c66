//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"errors"
	"fmt"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
)

// feeder copies batches to the device ahead of their use: the host fills pinned
// memory, a stream of its own carries it over, and the main stream takes it
// from there when it is done with the batch before.
type feeder struct {
	n             int // tokens of a batch
	main, ahead   gpu.Stream
	tokens, goals gpu.Ptr // where the graphs read
	lanes         [2]lane
	turn          int
}

// lane is one batch on its way.
type lane struct {
	host           *gpu.Pinned[int32] // tokens, then targets
	tokens, goals  gpu.Ptr
	carried, taken gpu.Event
}

func newFeeder(main gpu.Stream, n int, buffers [6]gpu.Ptr) (*feeder, error) {
	f := &feeder{n: n, main: main, tokens: buffers[0], goals: buffers[1]}
	var err error
	if f.ahead, err = gpu.NewStream(); err != nil {
		return nil, err
	}
	for i := range f.lanes {
		l := &f.lanes[i]
		l.tokens, l.goals = buffers[2+2*i], buffers[3+2*i]
		if l.host, err = gpu.NewPinned[int32](2 * n); err != nil {
			return nil, err
		}
		for _, e := range []*gpu.Event{&l.carried, &l.taken} {
			if *e, err = gpu.NewEvent(false); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// put makes a batch the next that the graphs see.
func (f *feeder) put(b engine.Batch) error {
	l := &f.lanes[f.turn]
	f.turn = (f.turn + 1) % len(f.lanes)
	if err := l.carried.Synchronize(); err != nil { // the host's copy is free again
		return err
	}
	copy(l.host.Slice(), b.Tokens)
	copy(l.host.Slice()[f.n:], b.Targets)
	size := int64(f.n) * 4
	return inOrder(
		func() error { return f.ahead.Wait(l.taken) },
		func() error { return l.host.Upload(f.ahead, l.tokens, 0, f.n) },
		func() error { return l.host.Upload(f.ahead, l.goals, f.n, f.n) },
		func() error { return l.carried.Record(f.ahead) },
		func() error { return f.main.Wait(l.carried) },
		func() error { return f.main.Copy(f.tokens, l.tokens, size) },
		func() error { return f.main.Copy(f.goals, l.goals, size) },
		func() error { return l.taken.Record(f.main) },
	)
}

// inOrder calls functions until one fails.
func inOrder(list ...func() error) error {
	for _, f := range list {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func (f *feeder) close() error {
	errs := []error{f.ahead.Synchronize()}
	for i := range f.lanes {
		l := &f.lanes[i]
		errs = append(errs, l.host.Free(), l.carried.Destroy(), l.taken.Destroy())
	}
	return errors.Join(append(errs, f.ahead.Destroy())...)
}

// queued is how many updates may be on their way.
const queued = 2

// results carries what the host says of an update to the device and its result
// back, without either waiting for the other.
type results struct {
	main gpu.Stream
	out  [queued]struct {
		rate   *gpu.Pinned[float32]
		result *gpu.Pinned[byte]
		done   gpu.Event
	}
	put, got int
}

func newResults(main gpu.Stream) (*results, error) {
	r := &results{main: main}
	for i := range r.out {
		o := &r.out[i]
		var err error
		if o.rate, err = gpu.NewPinned[float32](1); err != nil {
			return nil, err
		}
		if o.result, err = gpu.NewPinned[byte](stateSize); err != nil {
			return nil, err
		}
		if o.done, err = gpu.NewEvent(false); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// enqueue launches an update at a learning rate.
func (r *results) enqueue(t *trainer, lr float64) error {
	if r.put-r.got == queued {
		return fmt.Errorf("update: %d are queued and none was collected", queued)
	}
	o := &r.out[r.put%queued]
	o.rate.Slice()[0] = float32(lr)
	if err := inOrder(
		func() error { return o.rate.Upload(r.main, t.mem.state, 0, 1) },
		func() error { return t.update.Launch(r.main) },
		func() error { return o.result.Download(r.main, t.mem.result, stateSize) },
		func() error { return o.done.Record(r.main) },
	); err != nil {
		return err
	}
	r.put++
	return nil
}

// collect waits for the oldest update.
func (r *results) collect() (stateValues, error) {
	if r.put == r.got {
		return stateValues{}, fmt.Errorf("update: none is queued")
	}
	o := &r.out[r.got%queued]
	r.got++
	if err := o.done.Synchronize(); err != nil {
		return stateValues{}, err
	}
	var s [1]stateValues
	gpu.Values(s[:], o.result.Slice())
	return s[0], nil
}

func (r *results) close() error {
	var errs []error
	for i := range r.out {
		o := &r.out[i]
		errs = append(errs, o.rate.Free(), o.result.Free(), o.done.Destroy())
	}
	return errors.Join(errs...)
}
