package prepare

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"

	"mlkv/internal/data/source"
)

// place is a block of the inputs.
type place struct {
	Input int   `json:"input"`
	Block int64 `json:"block"`
}

// task is a block on its way from the reader through a worker to the packer.
type task struct {
	place
	block  source.Block // nil where an input ends
	damage error        // ended the input
	sum    string       // of an input that was read to its end
	weight int64        // of the memory budget
	result chan *result // has room for one
}

// memoryBudget bounds the blocks that are read and not yet packed, in bytes. A
// block costs several times its size while its text and tokens are held too.
const memoryBudget = 64 << 20

// reader feeds blocks to the workers and, in the same order, to the packer.
type reader struct {
	inputs []source.Input
	work   chan *task
	order  chan *task
	budget *semaphore.Weighted
	group  sync.WaitGroup
}

// startReader reads from a place on until the inputs end or ctx does.
func startReader(ctx context.Context, inputs []source.Input, from place, workers int) *reader {
	r := &reader{
		inputs: inputs, work: make(chan *task), order: make(chan *task, 2*workers+2),
		budget: semaphore.NewWeighted(memoryBudget),
	}
	r.group.Go(func() {
		defer close(r.order)
		defer close(r.work)
		for i := from.Input; i < len(inputs); i++ {
			skip := int64(0)
			if i == from.Input {
				skip = from.Block
			}
			if r.input(ctx, i, skip) != nil {
				return
			}
		}
	})
	return r
}

// input reads one input; its first blocks were packed before. An error says
// that ctx has ended.
func (r *reader) input(ctx context.Context, index int, skip int64) error {
	at := place{Input: index}
	src, err := r.inputs[index].Open()
	if err != nil {
		return r.send(ctx, &task{place: at, damage: err})
	}
	defer src.Close()
	for ; ; at.Block++ {
		block, err := src.Next()
		switch {
		case errors.Is(err, io.EOF):
			return r.send(ctx, &task{place: at, sum: src.Sum()})
		case err != nil:
			return r.send(ctx, &task{place: at, damage: err})
		case ctx.Err() != nil:
			return ctx.Err()
		case at.Block < skip:
			continue
		}
		if err := r.send(ctx, &task{place: at, block: block}); err != nil {
			return err
		}
	}
}

// send waits for memory and for room in both queues.
func (r *reader) send(ctx context.Context, t *task) error {
	t.result = make(chan *result, 1)
	if t.block != nil {
		t.weight = min(t.block.Size(), memoryBudget)
		if err := r.budget.Acquire(ctx, t.weight); err != nil {
			return err
		}
	}
	select {
	case r.order <- t:
	case <-ctx.Done():
		return ctx.Err()
	}
	if t.block == nil {
		t.result <- &result{}
		return nil
	}
	select {
	case r.work <- t:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
