package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"mlkv/internal/ui"
)

// Waiting longer than maxPatience is left to the user, and longer than maxPause
// there is no use in where the hub does not ask for it.
const (
	maxPatience = 15 * time.Minute
	maxPause    = 30 * time.Second
)

// passing is an error that another attempt may not meet.
type passing struct {
	error
	after time.Duration // the hub asked to wait so long, or 0
}

func (p passing) Unwrap() error { return p.error }

// networkError is a failure to reach a host. A certificate that is not trusted
// stays so.
func networkError(host string, err error) error {
	err = fmt.Errorf("%s: %w", host, err)
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return err
	}
	return passing{error: err}
}

// retry calls f until it succeeds, fails for good, or fails as often in a row
// as the client allows; f says whether it got any further. Remarks on it begin
// with what. Pauses double and vary, so that clients that failed together do not
// come back together.
func (c *client) retry(ctx context.Context, what string, f func() (progress bool, err error)) error {
	for failures := 0; ; {
		if err := c.gate.wait(ctx); err != nil {
			return err
		}
		progress, err := f()
		var p passing
		if err == nil || ctx.Err() != nil || !errors.As(err, &p) {
			return err
		}
		if progress {
			failures = 0
		}
		failures++
		if failures >= c.attempts {
			return fmt.Errorf("%w (attempt %d of %d; the same command goes on from here)", err, failures, c.attempts)
		}
		if p.after > maxPatience {
			return fmt.Errorf("%w; run the same command again then", err)
		}
		pause := c.backoff(failures)
		if p.after > 0 {
			pause = p.after
			c.gate.close(pause)
		}
		if failures > 1 || p.after > 0 {
			c.note("%s: %v; trying again in %s", what, err, ui.FormatDuration(pause))
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// backoff is the pause after so many failures: doubling, with half of it
// random.
func (c *client) backoff(failures int) time.Duration {
	d := c.settings.pause << min(failures-1, 10)
	d = min(d, maxPause)
	return d/2 + rand.N(d/2+1)
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if date, err := http.ParseTime(text); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}
