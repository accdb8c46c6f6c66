package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"mlkv/internal/checkpoint"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// The values that keys of fixed choice take.
var (
	Starts     = []string{"pooling", "absorb"}
	Poolings   = []string{"mean", "running", "first"}
	Growths    = []string{"split", "copy", "none"}
	Rotaries   = []string{string(model.RotaryAfter), string(model.RotaryBefore)}
	DTypes     = []string{"float32", "float16", "bfloat16"}
	Packings   = []string{"stream", "authors"}
	Precisions = []string{"bf16", "float32"}
	Recomputes = []string{"none", "mlp", "layer"}
	Schedules  = []string{"cosine", "linear", "constant"}
	Decays     = []string{"matrices", "all"}
	OnNaNs     = []string{"stop", "skip"}
	Tasks      = []string{"arc_easy", "lambada_openai", "piqa", "sciq", "boolq", "wikitext", "text", "heldout"}
	Presets    = []string{"", "authors"}
	// CacheBits are the sizes of a cached element; 0 is the device's own.
	CacheBits = []int{0, 8, 16, 32}
)

// presets are values that stand in for the defaults of several keys. The
// authors' converter merges by a running mean, copies neurons whole and shares
// keys before rotary (github.com/zaydzuhri/pythia-mlkv).
var presets = map[string]map[string]any{
	"authors": {
		"convert.pooling":           "running",
		"convert.grow":              "copy",
		"convert.shared_key_rotary": "before",
	},
}

var devicePattern = regexp.MustCompile(`^(auto|cpu|cuda|cuda:\d+)$`)

// problem is a value that a key cannot have.
type problem struct{ key, text string }

// Validate reports every value that its key cannot have, one a line.
func (c Config) Validate() error { return Resolved{Config: c}.check() }

// check is Validate with the origin of each value that is refused.
func (r Resolved) check() error {
	var lines []string
	for _, p := range r.Config.problems() {
		line := p.key + ": " + p.text
		if from := r.Origin[p.key]; from != "" && from != "default" {
			line += " (from " + from + ")"
		}
		lines = append(lines, line)
	}
	if lines == nil {
		return nil
	}
	return ui.Usagef("%s", strings.Join(lines, "\n"))
}

type checker struct{ problems []problem }

func (k *checker) that(ok bool, key, format string, args ...any) {
	if !ok {
		k.problems = append(k.problems, problem{key, fmt.Sprintf(format, args...)})
	}
}

func (k *checker) oneOf(key, got string, choices []string) {
	k.that(slices.Contains(choices, got), key, "expected one of %s, found %q%s",
		strings.Join(slices.DeleteFunc(slices.Clone(choices), func(s string) bool { return s == "" }), ", "),
		got, ui.DidYouMean(got, choices))
}

func (k *checker) atLeast(key string, got, least int) {
	k.that(got >= least, key, "expected %d or more, found %d", least, got)
}

// within checks low <= got <= high; it refuses NaN.
func (k *checker) within(key string, got, low, high float64) {
	k.that(got >= low && got <= high, key, "expected %g to %g, found %g", low, high, got)
}

func (c Config) problems() []problem {
	k := &checker{}
	k.that(devicePattern.MatchString(c.Device), "device", `expected auto, cpu, cuda or cuda:N, found %q`, c.Device)
	k.atLeast("threads", c.Threads, 0)
	k.oneOf("precision", c.Precision, Precisions)
	c.Convert.check(k)
	k.atLeast("data.row_length", c.Data.RowLength, 2)
	k.oneOf("data.packing", c.Data.Packing, Packings)
	c.Uptrain.check(k)
	for _, t := range c.Eval.Tasks {
		k.oneOf("eval.tasks", t, Tasks)
	}
	k.atLeast("eval.shots", c.Eval.Shots, 0)
	k.atLeast("eval.limit", c.Eval.Limit, 0)
	k.oneOf("eval.precision", c.Eval.Precision, Precisions)
	k.atLeast("eval.batch_tokens", c.Eval.BatchTokens, 0)
	c.Measure.check(k)
	return k.problems
}

func (m Measure) check(k *checker) {
	k.atLeast("measure.steps", m.Steps, 1)
	for _, l := range m.Lengths {
		k.atLeast("measure.lengths", l, m.Steps+2)
	}
	for _, b := range m.Batches {
		k.atLeast("measure.batches", b, 1)
	}
	for _, b := range m.ContextBatches {
		k.atLeast("measure.context_batches", b, 1)
	}
	k.that(m.Seconds > 0, "measure.seconds", "expected more than 0, found %g", m.Seconds)
	k.that(slices.Contains(CacheBits, m.CacheBits), "measure.cache_bits", "expected one of %v, found %d", CacheBits, m.CacheBits)
	_, err := m.MemoryBytes()
	k.that(err == nil, "measure.memory", "%v", err)
}

// MemoryBytes is Memory as a number, 0 where it is empty.
func (m Measure) MemoryBytes() (int64, error) {
	if m.Memory == "" {
		return 0, nil
	}
	return ui.ParseBytes(m.Memory)
}

func (c Convert) check(k *checker) {
	k.atLeast("convert.kv_layers", c.KVLayers, 0)
	k.atLeast("convert.kv_heads", c.KVHeads, 0)
	if c.LayerMap != "" {
		_, err := model.ParseOwnerMap(c.LayerMap)
		k.that(err == nil, "convert.layer_map", "%v", err)
		k.that(c.KVLayers == 0, "convert.layer_map", "expected either kv_layers or layer_map, found both (kv_layers %d)", c.KVLayers)
	}
	if c.ValueLayerMap != "" {
		_, err := model.ParseOwnerMap(c.ValueLayerMap)
		k.that(err == nil, "convert.value_layer_map", "%v", err)
	}
	k.oneOf("convert.start", c.Start, Starts)
	k.atLeast("convert.calibration.rows", c.Calibration.Rows, 0)
	k.atLeast("convert.absorb.refit", c.Absorb.Refit, 0)
	k.oneOf("convert.pooling", c.Pooling, Poolings)
	k.oneOf("convert.grow", c.Grow, Growths)
	k.oneOf("convert.shared_key_rotary", c.SharedKeyRotary, Rotaries)
	k.oneOf("convert.dtype", c.DType, DTypes)
	k.oneOf("convert.format", c.Format, checkpoint.Formats)
	k.oneOf("convert.preset", c.Preset, Presets)
}

func (u Uptrain) check(k *checker) {
	k.atLeast("uptrain.rows", u.Rows, 1)
	k.atLeast("uptrain.micro_rows", u.MicroRows, 1)
	if u.Rows > 0 && u.MicroRows > 0 {
		k.that(u.Rows%u.MicroRows == 0, "uptrain.micro_rows",
			"expected a divisor of uptrain.rows %d, found %d; choose one of %v", u.Rows, u.MicroRows, model.Divisors(u.Rows))
	}
	k.atLeast("uptrain.steps", u.Steps, 0)
	k.that(u.Steps > 0 || u.Epochs > 0, "uptrain.epochs", "expected more than 0 where uptrain.steps is 0, found %g", u.Epochs)
	k.that(u.LearningRate > 0, "uptrain.learning_rate", "expected more than 0, found %g", u.LearningRate)
	k.within("uptrain.final_rate", u.FinalRate, 0, max(0, u.LearningRate))
	k.oneOf("uptrain.schedule", u.Schedule, Schedules)
	k.within("uptrain.warmup_ratio", u.WarmupRatio, 0, 1)
	k.atLeast("uptrain.warmup_steps", u.WarmupSteps, 0)
	k.that(u.Beta1 >= 0 && u.Beta1 < 1, "uptrain.beta1", "expected at least 0 and less than 1, found %g", u.Beta1)
	k.that(u.Beta2 >= 0 && u.Beta2 < 1, "uptrain.beta2", "expected at least 0 and less than 1, found %g", u.Beta2)
	k.oneOf("uptrain.recompute", u.Recompute, Recomputes)
	k.that(u.Eps > 0, "uptrain.eps", "expected more than 0, found %g", u.Eps)
	k.that(u.WeightDecay >= 0, "uptrain.weight_decay", "expected 0 or more, found %g", u.WeightDecay)
	k.oneOf("uptrain.decay", u.Decay, Decays)
	k.that(u.Clip >= 0, "uptrain.clip", "expected 0 or more, found %g", u.Clip)
	k.within("uptrain.distill.weight", u.Distill.Weight, 0, 1)
	k.that(u.Distill.Temperature > 0, "uptrain.distill.temperature", "expected more than 0, found %g", u.Distill.Temperature)
	k.atLeast("uptrain.log_every", u.LogEvery, 1)
	k.atLeast("uptrain.heldout_every", u.HeldoutEvery, 0)
	k.atLeast("uptrain.heldout_rows", u.HeldoutRows, 0)
	k.atLeast("uptrain.checkpoint_every", u.CheckpointEvery, 0)
	k.atLeast("uptrain.keep_checkpoints", u.KeepCheckpoints, 0)
	k.oneOf("uptrain.on_nan", u.OnNaN, OnNaNs)
}
