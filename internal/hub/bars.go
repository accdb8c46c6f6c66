package hub

import (
	"path"
	"sync"

	"mlkv/internal/ui"
)

// bars show how far a pull is: on a terminal one bar for each file on its way
// and one for all, elsewhere a line for each finished file and one for all now
// and then.
type bars struct {
	streams ui.Streams
	screen  *screen // nil where there is no terminal
	line    *screenLine
	all     *ui.Progress
	there   map[string]int64 // bytes of each file that were there before
}

// newBars begins to show a pull of files, of each of which some bytes may be
// there already.
func newBars(s ui.Streams, label string, files []File, there map[string]int64) *bars {
	b := &bars{streams: s, there: there}
	if s.Terminal {
		b.screen = &screen{out: s.Err}
		b.line = b.screen.add()
		s.Err = b.line
	}
	var total, before int64
	for _, f := range files {
		total += f.Size
		before += there[f.Path]
	}
	b.all = ui.NewProgress(s, total, label, ui.Bytes)
	b.all.Start(before)
	return b
}

func (b *bars) printf(format string, args ...any) { b.all.Printf(format, args...) }

func (b *bars) end() {
	b.all.Note("")
	b.all.Done()
	if b.screen != nil {
		b.screen.remove(b.line)
	}
}

// bar is one file's share.
type bar struct {
	bars *bars
	line *screenLine
	one  *ui.Progress // nil where there is no terminal

	mu sync.Mutex
	n  int64
}

func (b *bars) begin(f File) *bar {
	r := &bar{bars: b, n: b.there[f.Path]}
	if b.screen != nil {
		r.line = b.screen.add()
		s := b.streams
		s.Err = r.line
		r.one = ui.NewProgress(s, f.Size, shorten(f.Path), ui.Bytes)
		r.one.Start(r.n)
	}
	return r
}

// shorten takes the end of a file's path that a bar has room for.
func shorten(name string) string {
	name = path.Base(name)
	const room = 32
	if len(name) > room {
		name = "…" + name[len(name)-room+1:]
	}
	return name
}

func (r *bar) add(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n += n
	r.one.Add(n)
	r.bars.all.Add(n)
}

// set says that n bytes of the file are there, which may be fewer than before.
func (r *bar) set(n int64) {
	r.mu.Lock()
	delta := n - r.n
	r.mu.Unlock()
	r.add(delta)
}

// note says what is done where no bytes arrive.
func (r *bar) note(text string) {
	r.one.Note(text)
	r.one.Add(0)
}

func (r *bar) end() {
	if r.one != nil {
		r.one.Note("")
		r.one.Done()
		r.bars.screen.remove(r.line)
	}
}
