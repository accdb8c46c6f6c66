package data

// prefetcher brings rows into memory before they are asked for: it touches every
// page of a mapped row, so that a slow disk is waited for ahead of time.
type prefetcher struct {
	rows chan fetched
	quit chan struct{}
	done chan struct{}
	now  fetched // being handed out
	sink uint16  // keeps the touching from being optimized away
}

// fetched is some rows, in their order; an error belongs to the row after them.
type fetched struct {
	rows [][]uint16
	err  error
}

// prefetchBatch is how many rows go through the channel at once.
const prefetchBatch = 16

// startPrefetch reads from position p on, about depth rows ahead. It works on
// an order of its own.
func startPrefetch(l *Loader, p Position, depth int) *prefetcher {
	f := &prefetcher{quit: make(chan struct{}), done: make(chan struct{})}
	batch := min(depth, prefetchBatch)
	f.rows = make(chan fetched, max(1, depth/batch))
	view := *l
	view.ahead = nil
	go f.run(&view, p, batch)
	return f
}

func (f *prefetcher) run(l *Loader, p Position, batch int) {
	defer close(f.done)
	for {
		var got fetched
		for len(got.rows) < batch && got.err == nil {
			var row []uint16
			if row, got.err = l.at(p); got.err == nil {
				f.touch(row)
				got.rows = append(got.rows, row)
				p = l.after(p)
			}
		}
		select {
		case f.rows <- got:
		case <-f.quit:
			return
		}
		if got.err != nil {
			return
		}
	}
}

// touch reads a token of every 4 KiB page of a row.
func (f *prefetcher) touch(row []uint16) {
	const page = 4096 / 2
	for k := 0; k < len(row); k += page {
		f.sink ^= row[k]
	}
	f.sink ^= row[len(row)-1]
}

func (f *prefetcher) next() ([]uint16, error) {
	if len(f.now.rows) == 0 {
		if f.now.err != nil {
			return nil, f.now.err
		}
		f.now = <-f.rows
		return f.next()
	}
	row := f.now.rows[0]
	f.now.rows = f.now.rows[1:]
	return row, nil
}

// stop ends the goroutine and waits for it.
func (f *prefetcher) stop() {
	close(f.quit)
	<-f.done
}
