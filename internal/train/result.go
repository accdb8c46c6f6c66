package train

import (
	"encoding/json"
	"io"
	"math"
	"time"

	"mlkv/internal/ui"
)

// Result is result.json: what a finished run came to.
type Result struct {
	Name       string `json:"name,omitempty"`
	Run        string `json:"run"`   // run folder
	Model      string `json:"model"` // folder of the trained model
	Parameters int    `json:"parameters"`
	Device     string `json:"device"` // that of the last process

	Steps  int     `json:"steps"`
	Tokens int64   `json:"tokens"`
	Loss   float64 `json:"loss"` // of the last step before its update; 0 where it was not finite

	// Of the held-out text; absent where there was none.
	Before *Heldout `json:"heldout_before,omitempty"` // the model as it came
	After  *Heldout `json:"heldout_after,omitempty"`  // the model as it went
	Best   *Heldout `json:"heldout_best,omitempty"`

	Seconds         float64 `json:"seconds"` // of all processes of the run
	TokensPerSecond float64 `json:"tokens_per_second"`
	MFU             float64 `json:"mfu,omitempty"`
}

// Heldout is the mean loss of the held-out text after a step.
type Heldout struct {
	Step   int     `json:"step"`
	Loss   float64 `json:"loss"` // nats a token
	Tokens int     `json:"tokens"`
}

// result sums up the run from its metrics.
func (r *run) result() (*Result, error) {
	metrics, err := ReadMetrics(r.folder.file(metricsFile))
	if err != nil {
		return nil, err
	}
	elapsed, busy := r.clock.times()
	res := &Result{
		Name: r.options.Config.Name, Run: r.folder.path, Model: r.folder.file(modelDir),
		Parameters: r.in.model.Parameters(), Device: deviceName(r.device),
		Steps: r.at.Step, Tokens: r.at.Tokens, Seconds: elapsed,
	}
	if busy > 0 {
		res.TokensPerSecond = float64(r.at.Tokens) / busy
		res.MFU = r.mfu(res.TokensPerSecond)
	}
	for _, m := range metrics {
		if m.Loss != nil {
			res.Loss = *m.Loss
		}
		if m.HeldoutLoss == nil {
			continue
		}
		h := &Heldout{m.Step, *m.HeldoutLoss, m.HeldoutTokens}
		if m.Step == 0 {
			res.Before = h
		}
		if res.Best == nil || h.Loss < res.Best.Loss {
			res.Best = h
		}
		res.After = h
	}
	return res, nil
}

// write prints the result as a table, or as JSON.
func (res *Result) write(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(res)
	}
	heldout := func(h *Heldout) ui.Cell {
		if h == nil {
			return ui.Cell{}
		}
		return ui.Fixed(h.Loss, 4)
	}
	best := math.NaN()
	if res.Best != nil {
		best = float64(res.Best.Step)
	}
	t := ui.NewTable("steps", "tokens", "held-out before", "after", "best", "at step", "time", "tokens/s", "model")
	t.Row(ui.Integer(res.Steps), ui.Integer(res.Tokens), heldout(res.Before), heldout(res.After), heldout(res.Best), ui.Fixed(best, 0),
		ui.FormatDuration(time.Duration(res.Seconds*float64(time.Second))), ui.Cell{Value: res.TokensPerSecond, Text: ui.FormatRate(res.TokensPerSecond)},
		res.Model)
	return t.Text(w)
}
