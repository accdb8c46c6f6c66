package train

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"

	"mlkv/internal/ui"
)

// Metric is one line of metrics.jsonl: what one step did, or the held-out loss
// after a step. Only TokensPerSecond, MFU and Elapsed depend on the machine.
type Metric struct {
	Step int `json:"step"` // updates so far

	// Of a step; absent in a held-out record. Loss and GradNorm are absent too
	// where they were not finite.
	Loss     *float64 `json:"loss,omitempty"` // mean of the objective over the step's tokens, before the update
	Rate     *float64 `json:"lr,omitempty"`
	GradNorm *float64 `json:"grad_norm,omitempty"` // before clipping
	Skipped  bool     `json:"skipped,omitempty"`   // the update was left out: loss or gradient not finite

	// Parts of Loss where a teacher is learned from; see engine.Step.
	CrossEntropy *float64 `json:"ce,omitempty"`
	KL           *float64 `json:"kl,omitempty"`

	// Of a held-out record.
	HeldoutLoss   *float64 `json:"heldout_loss,omitempty"`
	HeldoutTokens int      `json:"heldout_tokens,omitempty"`

	Tokens          int64   `json:"tokens"` // trained on so far
	TokensPerSecond float64 `json:"tokens_per_second,omitempty"`
	// MFU is the share of the device's peak that the model's own operations
	// and its teacher's forward pass take (model.Config.TrainingFLOPs), where
	// the peak is known.
	MFU     float64 `json:"mfu,omitempty"`
	Elapsed float64 `json:"elapsed"` // seconds since the run began, pauses left out
}

// Heldout reports whether the record is of held-out text.
func (m Metric) Heldout() bool { return m.HeldoutTokens > 0 }

// finite points to x where JSON can hold it.
func finite(x float64) *float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return &x
}

// ReadMetrics reads a metrics.jsonl. A last line that a running or killed
// process left incomplete is ignored.
func ReadMetrics(path string) ([]Metric, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, ui.Inputf("metrics: %w", err)
	}
	defer f.Close()
	metrics, err := decodeMetrics(f)
	if err != nil {
		return nil, ui.Inputf("%s: %w", path, err)
	}
	return metrics, nil
}

func decodeMetrics(r io.Reader) ([]Metric, error) {
	var out []Metric
	in := bufio.NewReader(r)
	for line := 1; ; line++ {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		var m Metric
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("line %d: expected an object of metrics, found %q: %w", line, bytes.TrimSpace(text), err)
		}
		out = append(out, m)
	}
}

// metricsLog appends to metrics.jsonl.
type metricsLog struct {
	file *os.File
	size int64
}

// openMetrics opens the log at path for appending after its first size bytes;
// what lies behind them belongs to steps after the checkpoint and is dropped.
func openMetrics(path string, size int64) (*metricsLog, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && size == 0:
	case err != nil:
		return nil, err
	case info.Size() < size:
		return nil, ui.Inputf("%s: expected at least the %d bytes that the checkpoint counted, found %d", path, size, info.Size())
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return &metricsLog{f, size}, nil
}

// add appends one record in a single write, so that a reader of the live file
// sees whole lines.
func (l *metricsLog) add(m Metric) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	n, err := l.file.Write(append(line, '\n'))
	l.size += int64(n)
	return err
}

func (l *metricsLog) sync() error { return l.file.Sync() }

func (l *metricsLog) close() error { return l.file.Close() }
