package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"mlkv/internal/ui"
)

// downloads fetches the files of one commit into the cache.
type downloads struct {
	client  *client
	cache   *cache
	repo    Repo
	commit  string
	slots   chan struct{} // one a connection
	recheck bool          // verify what is there already
	bars    *bars
}

// fetch makes a file's blob be there, whole and verified.
func (d *downloads) fetch(ctx context.Context, f File) error {
	bar := d.bars.begin(f)
	defer bar.end()
	if err := d.fetchLocked(ctx, f, bar); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: %s: %w", d.repo, f.Path, err)
	}
	return nil
}

func (d *downloads) fetchLocked(ctx context.Context, f File, bar *bar) error {
	if d.cache.has(f) && !d.recheck {
		bar.set(f.Size)
		return nil
	}
	lock, err := d.cache.lock(ctx, f.ETag, func() { bar.note("waiting for another process that fetches it") })
	if err != nil {
		return err
	}
	defer lock.Close()
	bar.note("")
	if d.cache.has(f) {
		err := d.checkBlob(ctx, f, bar)
		if !errors.As(err, new(mismatch)) {
			return err
		}
		d.client.note("%s: the cached file is damaged (%v); fetching it again", f.Path, err)
	}
	p, err := d.cache.openPartial(f, d.client.settings.partSize)
	if err != nil {
		return err
	}
	defer p.close()
	return d.complete(ctx, &transfer{File: f, partial: p, bar: bar})
}

// checkBlob verifies, where the user asks for it, what is there.
func (d *downloads) checkBlob(ctx context.Context, f File, bar *bar) error {
	if d.recheck {
		content, err := d.cache.root.Open(blobName(f.ETag))
		if err != nil {
			return err
		}
		defer content.Close()
		bar.note("verifying")
		if err := verify(ctx, content, f); err != nil {
			return err
		}
	}
	bar.set(f.Size)
	return nil
}

// transfer is one file on its way.
type transfer struct {
	File
	*partial
	bar *bar
	// place is where the hub pointed to for the content, outside of itself.
	place atomic.Pointer[string]
}

// complete fetches what is missing, verifies all and gives it its name. Where
// something was there before and the whole is wrong, it is fetched anew once.
func (d *downloads) complete(ctx context.Context, t *transfer) error {
	before := t.have()
	t.bar.set(before)
	for {
		if err := d.fill(ctx, t); err != nil {
			return err
		}
		t.bar.note("verifying")
		err := verify(ctx, t.file, t.File)
		if err == nil {
			return t.finish(t.ETag)
		}
		if !errors.As(err, new(mismatch)) {
			return err
		}
		if before == 0 {
			return errors.Join(ui.Inputf("content is not what the hub announced: %w; it was not kept", err), t.remove())
		}
		d.client.note("%s: what an earlier pull left does not fit (%v); fetching all anew", t.Path, err)
		before = 0
		if err := d.restart(t); err != nil {
			return err
		}
	}
}

// restart forgets what was received.
func (d *downloads) restart(t *transfer) error {
	t.bar.set(0)
	if err := t.clear(0); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// errNoRanges says that the host sends whole files only.
var errNoRanges = errors.New("host ignores Range")

// fill fetches the missing parts over as many connections as are free.
func (d *downloads) fill(ctx context.Context, t *transfer) error {
	missing := t.missing()
	queue := make(chan int, len(missing))
	for _, i := range missing {
		queue <- i
	}
	close(queue)
	g, parts := errgroup.WithContext(ctx)
	for range min(len(missing), cap(d.slots)) {
		g.Go(func() error {
			for i := range queue {
				if err := d.withSlot(parts, func() error { return d.fetchPart(parts, t, i) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	if errors.Is(err, errNoRanges) && ctx.Err() == nil {
		return d.withSlot(ctx, func() error { return d.fetchWhole(ctx, t) })
	}
	return err
}

func (d *downloads) withSlot(ctx context.Context, f func() error) error {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetchPart fetches what is missing of a part, going on after drops.
func (d *downloads) fetchPart(ctx context.Context, t *transfer, i int) error {
	return d.client.retry(ctx, t.Path, func() (bool, error) {
		before := t.got(i)
		if before == t.length(i) {
			return true, nil
		}
		err := d.request(ctx, t, i)
		return t.got(i) > before, err
	})
}

// fetchWhole fetches the file in one piece from its beginning, where the host
// can do no other. What a drop leaves is of no use then.
func (d *downloads) fetchWhole(ctx context.Context, t *transfer) error {
	return d.client.retry(ctx, t.Path, func() (bool, error) {
		if err := d.restart(t); err != nil {
			return false, err
		}
		a, err := d.open(ctx, t, "")
		if err != nil {
			return false, err
		}
		defer a.Close()
		return false, d.receive(a, t, 0, t.size)
	})
}

// request asks for the rest of a part and receives it.
func (d *downloads) request(ctx context.Context, t *transfer, i int) error {
	from := int64(i)*t.part + t.got(i)
	to := int64(i)*t.part + t.length(i)
	whole := from == 0 && to == t.size
	ranges := ""
	if !whole {
		ranges = fmt.Sprintf("bytes=%d-%d", from, to-1)
	}
	a, err := d.open(ctx, t, ranges)
	if err != nil {
		return err
	}
	defer a.Close()
	if a.StatusCode == http.StatusPartialContent {
		if err := checkRange(a.Header.Get("Content-Range"), from, to, t.size); err != nil {
			return err
		}
	} else if !whole {
		return errNoRanges
	}
	return d.receive(a, t, i, to-from)
}

// checkRange compares what is sent with what was asked for. A host may send
// less at once, not other bytes.
func checkRange(header string, from, to, size int64) error {
	first, last, total, err := contentRange(header)
	switch {
	case err != nil:
		return err
	case total >= 0 && total != size:
		return ui.Inputf("size: expected %d bytes, found %d", size, total)
	case first != from || last >= to:
		return fmt.Errorf("header Content-Range: expected bytes %d-%d, found %d-%d", from, to-1, first, last)
	}
	return nil
}

// open asks for a file's content, at the place that the hub pointed to before
// where there is one. Such places cease to answer after a while; the hub then
// names another.
func (d *downloads) open(ctx context.Context, t *transfer, ranges string) (*answer, error) {
	q := request{method: http.MethodGet, url: d.client.fileURL(d.repo, d.commit, t.Path), ranges: ranges}
	place := t.place.Load()
	if place != nil {
		q.url = *place
	}
	a, err := d.client.send(ctx, q)
	if err != nil {
		return nil, err
	}
	switch {
	case a.StatusCode == http.StatusOK && a.ContentLength >= 0 && a.ContentLength != t.size:
		err = ui.Inputf("size: expected %d bytes, found %d", t.size, a.ContentLength)
	case a.StatusCode == http.StatusOK, a.StatusCode == http.StatusPartialContent:
		if u := a.Request.URL; place == nil && !d.client.isHub(u) {
			text := u.String()
			t.place.Store(&text)
		}
		return a, nil
	case place != nil && a.StatusCode < 500 && a.StatusCode != http.StatusTooManyRequests:
		t.place.CompareAndSwap(place, nil)
		err = passing{error: fmt.Errorf("%s: %s", a.Request.URL.Host, a.Status)}
	default:
		err = d.client.refusal(a, d.repo, t.Path)
	}
	a.Close()
	return nil, err
}

// receive writes want bytes of a body to part i and those behind it.
func (d *downloads) receive(body io.Reader, t *transfer, i int, want int64) error {
	buf := make([]byte, 128<<10)
	var received int64
	for {
		n, err := body.Read(buf)
		received += int64(n)
		if received > want {
			return ui.Inputf("size: expected %d bytes, found more", t.size)
		}
		if n > 0 {
			if err := t.write(i, buf[:n]); err != nil {
				return err
			}
			t.bar.add(int64(n))
		}
		switch {
		case err == io.EOF && received == want:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return passing{error: fmt.Errorf("connection closed %s before the end", ui.FormatBytes(want-received))}
		case err != nil:
			return passing{error: err}
		}
	}
}
