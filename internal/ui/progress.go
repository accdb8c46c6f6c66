package ui

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/rivo/uniseg"
	"github.com/schollz/progressbar/v3"
)

// Unit is what a progress bar counts.
type Unit struct {
	name   string // plural; empty for bytes
	format func(int64) string
}

// Bytes counts bytes, in binary units.
var Bytes = Unit{format: FormatBytes}

// Count counts things of the given plural name, for example "tokens".
func Count(name string) Unit { return Unit{name: name, format: FormatCount} }

// amount writes n with the unit, "1.20M tokens" or "3.00 MiB".
func (u Unit) amount(n int64) string {
	if u.name == "" {
		return u.format(n)
	}
	return u.format(n) + " " + u.name
}

// rate writes n a second, "32.8k tokens/s" or "3.00 MiB/s".
func (u Unit) rate(perSecond float64) string {
	if u.name == "" {
		return u.format(int64(perSecond)) + "/s"
	}
	return FormatRate(perSecond) + " " + u.name + "/s"
}

// Intervals of redrawing on a terminal and of lines elsewhere. Lines come
// further apart the longer the work takes, so that the log of a day's run
// stays readable.
const (
	redrawEvery   = 100 * time.Millisecond
	firstLine     = 5 * time.Second
	longestSilent = time.Minute
)

// Progress shows how far a piece of work is, its rate and the time left: a bar
// that redraws itself on a terminal, a line now and then elsewhere. Its methods
// may be called from several goroutines. A nil *Progress shows nothing.
type Progress struct {
	out   io.Writer
	label string
	unit  Unit
	total int64
	room  int                      // columns behind the bar
	bar   *progressbar.ProgressBar // nil where lines are written
	now   func() time.Time

	mu       sync.Mutex
	n, start int64 // work done, and done before this process began
	note     string
	began    time.Time
	next     time.Time // when to draw again
	silence  time.Duration
	done     bool
}

// NewProgress begins to show work of total units; a negative total is not
// known. Call Done at the end, also after a failure.
func NewProgress(s Streams, total int64, label string, unit Unit) *Progress {
	p := &Progress{out: s.Err, label: label, unit: unit, total: total, now: time.Now}
	if s.Terminal {
		width := min(30, max(8, s.Width/5))
		p.bar = newBar(s.Err, total, width)
		p.room = s.Width - width - len(" 100% [] ") - 4 // 4: spaces of the bar's own
	}
	p.begin()
	return p
}

// newBar draws a percentage and a bar, and behind them what Describe says.
func newBar(out io.Writer, total int64, width int) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(out),
		progressbar.OptionSetWidth(width),
		progressbar.OptionShowDescriptionAtLineEnd(),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionSpinnerType(14),
		progressbar.OptionSetSpinnerChangeInterval(0),
		progressbar.OptionUseANSICodes(true),
		progressbar.OptionSetTheme(progressbar.Theme{
			Saucer: "█", SaucerPadding: "░", BarStart: "▕", BarEnd: "▏",
		}))
}

func (p *Progress) begin() {
	p.began = p.now()
	p.silence = firstLine
	p.next = p.began.Add(p.silence)
	if p.bar != nil {
		p.next = p.began
	}
}

// Start says that n units were done before, so that they count in how far the
// work is but not in its rate: where a resumed run goes on.
func (p *Progress) Start(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n, p.start = n, n
	p.begin()
}

// Add counts n more units as done.
func (p *Progress) Add(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n += n
	p.draw()
}

// Set says that n units are done by now.
func (p *Progress) Set(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n = n
	p.draw()
}

// Note sets a short remark that is shown behind the rate, such as "loss 3.21".
func (p *Progress) Note(text string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note = text
}

// Printf writes a line of its own above the bar.
func (p *Progress) Printf(format string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.clear()
		p.next = p.now()
	}
	fmt.Fprintf(p.out, "%s\n", strings.TrimSuffix(fmt.Sprintf(format, args...), "\n"))
}

// Done ends the display. What took a second or longer is summed up in a line.
func (p *Progress) Done() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return
	}
	p.done = true
	if p.bar != nil {
		p.clear()
	}
	if took := p.now().Sub(p.began); took >= time.Second {
		fmt.Fprintf(p.out, "%s: %s in %s%s\n", p.label, p.unit.amount(p.n-p.start), FormatDuration(took), p.tail(false))
	}
}

// draw shows the state if the time for it has come.
func (p *Progress) draw() {
	now := p.now()
	if p.done || now.Before(p.next) {
		return
	}
	if p.bar == nil {
		p.silence = min(p.silence*3/2, longestSilent)
		p.next = now.Add(p.silence)
		fmt.Fprintf(p.out, "%s: %s%s\n", p.label, p.position(), p.tail(true))
		return
	}
	p.next = now.Add(redrawEvery)
	// The bar takes a count beyond its total for an error.
	n := p.n
	if p.total >= 0 {
		n = min(n, p.total)
	}
	_ = p.bar.Set64(n)
	p.bar.Describe(truncate(p.label+": "+p.unit.amount(p.n)+p.tail(true), p.room))
}

// position writes the work done and, where it is known, of how much.
func (p *Progress) position() string {
	if p.total < 0 {
		return p.unit.amount(p.n)
	}
	percent := 100.0
	if p.total > 0 {
		percent = 100 * float64(p.n) / float64(p.total)
	}
	return fmt.Sprintf("%.0f%% (%s of %s)", percent, p.unit.format(p.n), p.unit.amount(p.total))
}

// tail writes the rate, the time left and the note, each after a comma.
func (p *Progress) tail(left bool) string {
	var b strings.Builder
	did := p.n - p.start
	if seconds := p.now().Sub(p.began).Seconds(); seconds > 0.2 && did > 0 { // sooner, a rate says nothing
		rate := float64(did) / seconds
		fmt.Fprintf(&b, ", %s", p.unit.rate(rate))
		if left && p.total > p.n {
			d := time.Duration(float64(p.total-p.n) / rate * float64(time.Second))
			fmt.Fprintf(&b, ", %s left", FormatDuration(d))
		}
	}
	if p.note != "" {
		fmt.Fprintf(&b, ", %s", p.note)
	}
	return b.String()
}

// clear wipes the terminal's current line.
func (p *Progress) clear() { fmt.Fprint(p.out, "\r\x1b[2K") }

// truncate cuts s to a display width.
func truncate(s string, width int) string {
	if uniseg.StringWidth(s) <= width {
		return s
	}
	g, used := uniseg.NewGraphemes(s), 0
	var b strings.Builder
	for g.Next() && used+g.Width() < width {
		b.WriteString(g.Str())
		used += g.Width()
	}
	return b.String() + "…"
}
