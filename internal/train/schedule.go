package train

import (
	"math"

	"mlkv/internal/ui"
)

// Schedule is the learning rate as a function of the step: a linear warm-up
// from 0, then Shape from Peak to Final.
type Schedule struct {
	Shape  string  `json:"shape"` // cosine, linear, constant
	Peak   float64 `json:"peak"`
	Final  float64 `json:"final"`  // at the last step; constant keeps Peak
	Warmup int     `json:"warmup"` // steps; step 0 has rate 0 where positive
	Total  int     `json:"total"`  // steps of the run
}

// Shapes of a Schedule.
const (
	Cosine   = "cosine"
	Linear   = "linear"
	Constant = "constant"
)

// WarmupSteps is the length of a warm-up given as a share of all steps,
// rounded up as the Hugging Face Trainer does (TrainingArguments
// .get_warmup_steps).
func WarmupSteps(ratio float64, total int) int {
	return int(math.Ceil(ratio * float64(total)))
}

// Validate reports a warm-up that is longer than the run. The other fields are
// checked where the configuration is.
func (s Schedule) Validate() error {
	if s.Warmup > s.Total {
		return ui.Usagef("uptrain.warmup_steps: expected 0 to %d (the steps of the run), found %d", s.Total, s.Warmup)
	}
	return nil
}

// Rate is the learning rate of a step, counted from 0, as
// transformers' get_cosine_schedule_with_warmup and
// get_linear_schedule_with_warmup compute it (optimization.py), with Final in
// place of 0 at the end.
func (s Schedule) Rate(step int) float64 {
	if step < s.Warmup {
		return s.Peak * float64(step) / float64(s.Warmup)
	}
	progress := float64(step-s.Warmup) / float64(max(1, s.Total-s.Warmup))
	share := 1.0
	switch s.Shape {
	case Cosine:
		share = 0.5 * (1 + math.Cos(math.Pi*min(progress, 1)))
	case Linear:
		share = max(0, 1-progress)
	case Constant:
		return s.Peak
	}
	return s.Final + (s.Peak-s.Final)*share
}
