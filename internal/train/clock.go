package train

import "time"

// clock measures a run across its processes.
type clock struct {
	began         time.Time
	elapsed, busy float64 // seconds, those of former processes included in both
	since         float64 // busy at the last record
	tokens        int64   // trained on since the last record
}

// newClock goes on from the seconds of former processes.
func newClock(elapsed, busy float64) clock {
	return clock{began: time.Now(), elapsed: elapsed, busy: busy, since: busy}
}

// work counts the time until the returned function is called as busy.
func (c *clock) work() (done func()) {
	start := time.Now()
	return func() { c.busy += time.Since(start).Seconds() }
}

// times are the seconds since the run began, pauses left out, and those of
// them that were spent in steps.
func (c *clock) times() (elapsed, busy float64) {
	return c.elapsed + time.Since(c.began).Seconds(), c.busy
}

// lap is the rate of tokens a second since the last lap.
func (c *clock) lap() float64 {
	took := c.busy - c.since
	rate := 0.0
	if took > 0 {
		rate = float64(c.tokens) / took
	}
	c.since, c.tokens = c.busy, 0
	return rate
}
