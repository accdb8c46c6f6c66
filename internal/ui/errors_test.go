package ui

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, ExitOK},
		{errors.New("x"), ExitFailed},
		{Usagef("bad flag"), ExitUsage},
		{fmt.Errorf("convert: %w", Inputf("truncated: %w", fs.ErrNotExist)), ExitInput},
		{errors.Join(Usagef("a"), errors.New("hint")), ExitUsage},
		{fmt.Errorf("uptrain: %w", ErrInterrupted), ExitInterrupted},
		{fmt.Errorf("read: %w", context.Canceled), ExitInterrupted},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("ExitCode(%v) = %d, want %d", c.err, got, c.want)
		}
	}
	if !errors.Is(Inputf("x: %w", fs.ErrNotExist), fs.ErrNotExist) {
		t.Error("Inputf hides what it wraps")
	}
}
