// Package ui is how commands meet a user: streams, progress, tables and errors
// that carry an exit code.
package ui

import (
	"io"
	"os"

	"golang.org/x/term"
)

// Streams are a command's input and outputs. Results go to Out, everything
// else to Err.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
	// Terminal says that Err is a terminal, so progress may redraw itself.
	Terminal bool
	// Width is the number of columns of the terminal, 80 where there is none.
	Width int
}

// System returns the streams of the process.
func System() Streams {
	s := Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Width: 80}
	fd := int(os.Stderr.Fd())
	if term.IsTerminal(fd) {
		s.Terminal = true
		if w, _, err := term.GetSize(fd); err == nil && w > 0 {
			s.Width = w
		}
	}
	return s
}
