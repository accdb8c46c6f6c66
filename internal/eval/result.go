package eval

import (
	"fmt"
	"math"
	"time"

	"mlkv/internal/model"
)

// ResultName is the result file in an output folder.
const ResultName = "results.json"

// Circumstances are what a result file says beside the figures.
type Circumstances struct {
	Model       Model
	Dir         string // of the checkpoint
	Device      string
	BatchTokens int
	Limit       int // documents a task; 0: all
	Commit      string
	Started     time.Time
	Elapsed     time.Duration
	Seconds     Object // that parts of the evaluation took; they overlap
	Provenance  any
}

// result lays an outcome out as lm-evaluation-harness 0.4 does, with one more
// section, "mlkv", that says what the model is.
func result(o Outcome, c Circumstances) Object {
	byName := func(task func(TaskResult) any, heldout any) Object {
		out := Object{}
		for _, t := range o.Tasks {
			out = append(out, Field{t.Name, task(t)})
		}
		if o.Heldout != nil {
			out = append(out, Field{HeldoutTask, heldout})
		}
		return out
	}
	return Object{
		{"results", byName(func(t TaskResult) any { return t.figures() }, o.Heldout.figures())},
		{"group_subtasks", byName(func(TaskResult) any { return []string{} }, []string{})},
		{"configs", byName(func(t TaskResult) any { return t.config() }, o.Heldout.config())},
		{"versions", byName(func(t TaskResult) any { return t.Version }, heldoutVersion)},
		{"n-shot", byName(func(t TaskResult) any { return t.Shots.Count }, 0)},
		{"higher_is_better", byName(func(t TaskResult) any { return t.directions() }, heldoutDirections)},
		{"n-samples", byName(func(t TaskResult) any {
			return Object{{"original", t.Original}, {"effective", len(t.Documents)}}
		}, o.Heldout.samples())},
		{"config", c.config()},
		{"git_hash", c.Commit},
		{"date", float64(c.Started.UnixMicro()) / 1e6},
		{"max_length", c.Model.Config.MaxPositions},
		{"eot_token_id", int(c.Model.Tokenizer.EOS())},
		{"model_source", "mlkv"},
		{"model_name", c.Model.Name},
		{"total_evaluation_time_seconds", pyFloat(c.Elapsed.Seconds())},
		{"mlkv", Object{
			{"name", c.Model.Name},
			{"model", describe(c.Model.Config)},
			{"heldout", o.Heldout.section()},
			{"seconds", c.Seconds},
			{"provenance", c.Provenance},
		}},
	}
}

// config is how the evaluation was called, in the harness's terms.
func (c Circumstances) config() Object {
	var limit any
	if c.Limit > 0 {
		limit = float64(c.Limit)
	}
	return Object{
		{"model", "mlkv"},
		{"model_args", "pretrained=" + c.Dir},
		{"batch_size", c.batchSize()},
		{"batch_sizes", []any{}},
		{"device", c.Device},
		{"use_cache", nil},
		{"limit", limit},
		{"bootstrap_iters", bootstrapDraws},
		{"gen_kwargs", nil},
	}
}

// batchSize is what the harness calls by that name.
func (c Circumstances) batchSize() string {
	if c.BatchTokens == 0 {
		return "auto"
	}
	return fmt.Sprintf("%d tokens", c.BatchTokens)
}

// describe is what tables and plots need to know of a model. Where values have
// owners of their own, owner and kv_layers are those of keys.
func describe(c model.Config) Object {
	const elementSize = 2 // 16 bits, as the paper counts
	out := Object{
		{"owner", c.Owner.String()},
		{"layers", c.Layers},
		{"heads", c.Heads},
		{"kv_layers", c.Owner.Owners()},
		{"kv_heads", c.KVHeads},
		{"head_size", c.HeadSize()},
		{"hidden_size", c.HiddenSize},
		{"intermediate_size", c.IntermediateSize},
		{"shared_key_rotary", string(c.SharedKeyRotary)},
		{"parameters", c.Parameters()},
		{"kv_bytes_per_token", c.KVBytes(1, 1, elementSize)},
	}
	if c.ValueOwner != nil {
		out = append(out, Field{"value_owner", c.ValueOwner.String()}, Field{"value_kv_layers", c.ValueOwner.Owners()})
	}
	return out
}

// config is the task's configuration with the number of examples.
func (t TaskResult) config() Object {
	var out Object
	for _, f := range t.Config {
		switch {
		case f.Name == "doc_to_text" && t.Shots.Split != "":
			out = append(out, Field{"fewshot_split", t.Shots.Split})
		case f.Name == "metric_list" && t.Shots.Count > 0:
			out = append(out, Field{"num_fewshot", t.Shots.Count})
		}
		out = append(out, f)
	}
	return out
}

// figures are a task's entry under "results".
func (t TaskResult) figures() Object {
	var out Object
	for i, m := range t.Metrics {
		out = appendFigure(out, m.Name, t.Estimates[i])
	}
	return append(out, Field{"alias", t.Name})
}

// appendFigure adds a metric and its standard error under the harness's keys.
func appendFigure(out Object, name string, e Estimate) Object {
	return append(out, Field{name + ",none", e.Value}, Field{name + "_stderr,none", e.stdErr()})
}

// stdErr is the standard error as the harness writes it.
func (e Estimate) stdErr() any {
	if math.IsNaN(e.StdErr) {
		return "N/A"
	}
	return e.StdErr
}

func (t TaskResult) directions() Object {
	var out Object
	for _, m := range t.Metrics {
		out = append(out, Field{m.Name, m.HigherIsBetter})
	}
	return out
}

const heldoutVersion = 1.0

var heldoutDirections = Object{{"loss", false}, {"perplexity", false}, {"bits_per_byte", false}}

func (h *Heldout) figures() any {
	if h == nil {
		return nil
	}
	out := appendFigure(nil, "loss", h.Loss)
	out = appendFigure(out, "perplexity", h.Perplexity)
	out = appendFigure(out, "bits_per_byte", h.BitsPerByte)
	return append(out, Field{"alias", HeldoutTask})
}

func (h *Heldout) config() any {
	if h == nil {
		return nil
	}
	return Object{
		{"task", HeldoutTask},
		{"dataset_path", h.Files},
		{"output_type", "loglikelihood_rolling"},
		{"metadata", Object{{"version", heldoutVersion}}},
	}
}

func (h *Heldout) samples() any {
	if h == nil {
		return nil
	}
	return Object{{"original", h.Sequences}, {"effective", h.Sequences}}
}

// section is what the "mlkv" section says of held-out text, null without any.
func (h *Heldout) section() any {
	if h == nil {
		return nil
	}
	return Object{
		{"loss", h.Loss.Value},
		{"loss_stderr", h.Loss.stdErr()},
		{"perplexity", h.Perplexity.Value},
		{"bits_per_byte", h.BitsPerByte.Value},
		{"bits_per_byte_stderr", h.BitsPerByte.stdErr()},
		{"tokens", h.Tokens},
		{"bytes", h.Bytes},
		{"sequences", h.Sequences},
		{"buckets", h.Buckets},
	}
}
