package hub

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// screen shows progress lines below each other on a terminal. Each line is a
// writer that takes what a ui.Progress writes: what follows the last carriage
// return is the line's text, and what ends in a newline is put above all lines
// for good.
type screen struct {
	out io.Writer

	mu    sync.Mutex
	lines []*screenLine
	drawn int // lines on the terminal that belong to the screen
}

type screenLine struct {
	screen *screen
	text   string
}

// add makes a line above the last one, which stays at the bottom.
func (s *screen) add() *screenLine {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &screenLine{screen: s}
	s.lines = slices.Insert(s.lines, max(0, len(s.lines)-1), l)
	return l
}

// remove takes a line away.
func (s *screen) remove(l *screenLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = slices.DeleteFunc(s.lines, func(other *screenLine) bool { return other == l })
	s.draw("")
}

const clearLine = "\x1b[2K"

func (l *screenLine) Write(b []byte) (int, error) {
	s := l.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	var above strings.Builder
	pieces := strings.SplitAfter(l.text+string(b), "\n")
	for _, whole := range pieces[:len(pieces)-1] {
		above.WriteString(lastText(strings.TrimSuffix(whole, "\n")) + "\n")
	}
	l.text = lastText(pieces[len(pieces)-1])
	return len(b), s.draw(above.String())
}

// lastText is what a terminal's line shows after text was written to it.
func lastText(text string) string {
	if i := max(strings.LastIndexByte(text, '\r'), strings.LastIndex(text, clearLine)); i >= 0 {
		text = text[i:]
	}
	return strings.TrimPrefix(strings.TrimPrefix(text, "\r"), clearLine)
}

// draw writes text for good and the lines below it.
func (s *screen) draw(above string) error {
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	b.WriteString("\r\x1b[J")
	b.WriteString(above)
	s.drawn = 0
	for _, l := range s.lines {
		if l.text != "" {
			b.WriteString(l.text + "\n")
			s.drawn++
		}
	}
	_, err := io.WriteString(s.out, b.String())
	return err
}
