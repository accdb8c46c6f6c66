package ui

import (
	"context"
	"errors"
	"fmt"
)

// Exit codes of the program.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2   // wrong flags, arguments or configuration
	ExitInput       = 3   // an input file or folder that cannot be used
	ExitInterrupted = 130 // stopped by a signal after saving
)

// ErrInterrupted is returned by a command that stopped on a signal after it
// saved its work.
var ErrInterrupted = errors.New("interrupted")

type coded struct {
	error
	code int
}

func (e coded) Unwrap() error { return e.error }

// Usagef makes an error that ends the program with ExitUsage. The format may
// wrap with %w.
func Usagef(format string, args ...any) error {
	return coded{fmt.Errorf(format, args...), ExitUsage}
}

// Inputf makes an error that ends the program with ExitInput: an input that is
// missing, damaged or of the wrong kind. The message names the file, the
// field, what was expected and what was found. The format may wrap with %w.
func Inputf(format string, args ...any) error {
	return coded{fmt.Errorf(format, args...), ExitInput}
}

// ExitCode is the code the program ends with after err.
func ExitCode(err error) int {
	var c coded
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, ErrInterrupted), errors.Is(err, context.Canceled):
		return ExitInterrupted
	case errors.As(err, &c):
		return c.code
	}
	return ExitFailed
}
