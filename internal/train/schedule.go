package train

import (
	"fmt"
	"math"
)

// Schedule is the learning rate as a function of the step: a linear warm-up
// from 0, then Shape from Peak to Final.
type Schedule struct {
	Shape       string  // cosine, linear, constant
	Peak, Final float64 // constant keeps Peak
	Warmup      int     // steps; step 0 has rate 0 where positive
	Total       int     // steps of the run
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

// Validate reports the first field that no run can have.
func (s Schedule) Validate() error {
	switch {
	case s.Shape != Cosine && s.Shape != Linear && s.Shape != Constant:
		return fmt.Errorf("uptrain.schedule: expected %s, %s or %s, found %q", Cosine, Linear, Constant, s.Shape)
	case !(s.Peak >= 0) || math.IsInf(s.Peak, 0):
		return fmt.Errorf("uptrain.learning_rate: expected 0 or more, found %g", s.Peak)
	case !(s.Final >= 0) || math.IsInf(s.Final, 0):
		return fmt.Errorf("uptrain.final_rate: expected 0 or more, found %g", s.Final)
	case s.Warmup < 0 || s.Warmup > s.Total:
		return fmt.Errorf("uptrain.warmup_steps: expected 0 to %d (the steps of the run), found %d", s.Total, s.Warmup)
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
