package ui

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// clock is a time that moves only by hand.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

// progress makes a Progress on a clock of its own.
func progress(s Streams, total int64, unit Unit) (*Progress, *clock) {
	c := &clock{time.Unix(0, 0)}
	p := NewProgress(s, total, "uptrain", unit)
	p.now = c.now
	p.begin()
	return p, c
}

func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	p, c := progress(Streams{Err: &out}, 1_000_000, Count("tokens"))
	p.Start(200_000)
	p.Note("loss 3.21")
	for range 40 {
		c.advance(time.Second)
		p.Add(20_000)
	}
	p.Printf("saved %s", "step-40")
	p.Done()
	p.Done()
	want := `uptrain: 30% (300k of 1.00M tokens), 20.0k tokens/s, 35.0s left, loss 3.21
uptrain: 46% (460k of 1.00M tokens), 20.0k tokens/s, 27.0s left, loss 3.21
uptrain: 70% (700k of 1.00M tokens), 20.0k tokens/s, 15.0s left, loss 3.21
saved step-40
uptrain: 800k tokens in 40.0s, 20.0k tokens/s, loss 3.21
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestProgressGrowsSilent(t *testing.T) {
	var out bytes.Buffer
	p, c := progress(Streams{Err: &out}, -1, Bytes)
	for range 24 * 60 {
		c.advance(time.Minute)
		p.Add(1 << 20)
	}
	if n := strings.Count(out.String(), "\n"); n != 24*60 {
		t.Errorf("a day of work wrote %d lines, want one a minute", n)
	}
	if !strings.Contains(out.String(), "uptrain: 60.0 MiB, 17.1 KiB/s\n") {
		t.Errorf("no line for the first hour:\n%s", out.String()[:500])
	}
}

func TestProgressShortWorkIsSilent(t *testing.T) {
	var out bytes.Buffer
	p, c := progress(Streams{Err: &out}, 10, Count("files"))
	c.advance(900 * time.Millisecond)
	p.Add(10)
	p.Done()
	if out.Len() > 0 {
		t.Errorf("work of under a second wrote %q", out.String())
	}
}

func TestProgressTerminal(t *testing.T) {
	var out bytes.Buffer
	p, c := progress(Streams{Err: &out, Terminal: true, Width: 70}, 100, Count("rows"))
	p.Note("a remark that is longer than what the terminal has room for")
	for range 100 {
		c.advance(time.Second)
		p.Add(1)
	}
	p.Add(5) // more than announced is no error
	p.Done()
	for _, line := range strings.FieldsFunc(out.String(), func(r rune) bool { return r == '\r' || r == '\n' }) {
		line = strings.ReplaceAll(line, "\x1b[0K", "")
		if strings.HasPrefix(line, "\x1b[2K") {
			continue // what Done writes may wrap
		}
		if n := utf8.RuneCountInString(line); n > 70 {
			t.Fatalf("line of %d columns on a terminal of 70: %q", n, line)
		}
	}
	for _, want := range []string{"50% ▕", ", 1 rows/s", "50.0s left", "…"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q", want)
		}
	}
}

func TestProgressConcurrent(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(Streams{Err: &out, Terminal: true, Width: 80}, 8000, "x", Count("rows"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				p.Add(1)
			}
		})
	}
	wg.Wait()
	p.Done()
	if p.n != 8000 {
		t.Errorf("counted %d, want 8000", p.n)
	}
}

func TestNilProgress(t *testing.T) {
	var p *Progress
	p.Start(1)
	p.Add(1)
	p.Set(2)
	p.Note("x")
	p.Printf("x")
	p.Done()
}
