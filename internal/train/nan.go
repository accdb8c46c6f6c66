package train

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"

	"mlkv/internal/data"
	"mlkv/internal/engine"
	"mlkv/internal/outdir"
)

// Values of uptrain.on_nan.
const (
	nanStop = "stop"
	nanSkip = "skip"
)

// maxSkips is how many steps in a row on_nan: skip leaves out before the run is
// taken for lost.
const maxSkips = 25

// badStep is the content of nan-step-N.json: what is needed to repeat the step.
type badStep struct {
	Step     int           `json:"step"`
	Rate     float64       `json:"lr"`
	Loss     string        `json:"loss"`
	GradNorm string        `json:"grad_norm"`
	Position data.Position `json:"position"`
	Rows     [][]uint16    `json:"rows"`
}

// notFinite reports a step whose loss or gradient is NaN or infinite.
func notFinite(s engine.Step) bool {
	bad := func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) }
	return bad(s.Loss) || bad(s.GradNorm)
}

// saveBadStep writes the step's batch beside the metrics and returns its path.
func saveBadStep(folder string, s *step) (string, error) {
	text, err := json.Marshal(badStep{
		Step: s.number, Rate: s.rate, Position: s.from, Rows: s.rows,
		Loss: fmt.Sprint(s.result.Loss), GradNorm: fmt.Sprint(s.result.GradNorm),
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, fmt.Sprintf("nan-step-%d.json", s.number))
	return path, outdir.WriteFile(path, append(text, '\n'))
}
