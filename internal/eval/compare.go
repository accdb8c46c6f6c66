package eval

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"mlkv/internal/ui"
)

// Scores are figures by task and metric.
type Scores map[string]map[string]Estimate

// ReadScores reads the figures of a result file of lm-evaluation-harness 0.3
// or 0.4, or of this program. Metric names are those of 0.4 without the filter.
func ReadScores(file string) (Scores, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, ui.Inputf("result file: %w", err)
	}
	var content struct {
		Results map[string]map[string]any `json:"results"`
	}
	if err := json.Unmarshal(data, &content); err != nil {
		return nil, ui.Inputf("%s: expected a result file of lm-evaluation-harness: %w", file, err)
	}
	if len(content.Results) == 0 {
		return nil, ui.Inputf("%s: field \"results\": expected the figures of at least one task, found none", file)
	}
	out := Scores{}
	for task, figures := range content.Results {
		out[task] = map[string]Estimate{}
		for key, value := range figures {
			v, isNumber := value.(float64)
			name, _, _ := strings.Cut(key, ",")
			if !isNumber || strings.HasSuffix(name, "_stderr") {
				continue
			}
			e := Estimate{v, math.NaN()}
			if se, ok := figures[strings.Replace(key, name, name+"_stderr", 1)].(float64); ok {
				e.StdErr = se
			}
			out[task][harness4Name(name)] = e
		}
	}
	return out, nil
}

// harness4Name is the name that version 0.4 gives a metric of 0.3.
func harness4Name(metric string) string {
	if metric == "ppl" {
		return "perplexity"
	}
	return metric
}

// scores are the figures of an outcome.
func (o Outcome) scores() Scores {
	out := Scores{}
	for _, t := range o.Tasks {
		out[t.Name] = map[string]Estimate{}
		for i, m := range t.Metrics {
			out[t.Name][m.Name] = t.Estimates[i]
		}
	}
	if h := o.Heldout; h != nil {
		out[HeldoutTask] = map[string]Estimate{"loss": h.Loss, "perplexity": h.Perplexity, "bits_per_byte": h.BitsPerByte}
	}
	return out
}

// Difference is how a figure stands against another run's.
type Difference struct {
	Task   string
	Metric string
	Ours   Estimate
	Theirs Estimate
}

// Gap is ours less theirs.
func (d Difference) Gap() float64 { return d.Ours.Value - d.Theirs.Value }

// InStdErrs is the gap over the standard error of a difference of independent
// figures. Two runs over the same documents are not independent, so their true
// gap is known better than this says. NaN where an error is not known.
func (d Difference) InStdErrs() float64 { return d.Gap() / math.Hypot(d.Ours.StdErr, d.Theirs.StdErr) }

// Compare lists the figures that both runs have, by task and metric.
func Compare(ours, theirs Scores) []Difference {
	var out []Difference
	for _, task := range slices.Sorted(maps.Keys(ours)) {
		for _, metric := range slices.Sorted(maps.Keys(ours[task])) {
			if e, ok := theirs[task][metric]; ok {
				out = append(out, Difference{task, metric, ours[task][metric], e})
			}
		}
	}
	return out
}

// compareTable lays differences out; "SE" counts standard errors.
func compareTable(diffs []Difference, other string) *ui.Table {
	t := ui.NewTable("Task", "Metric", "Value", "Stderr", other, "Stderr ", "Difference", "SE")
	for _, d := range diffs {
		t.Row(d.Task, d.Metric, ui.Fixed(d.Ours.Value, 4), ui.Fixed(d.Ours.StdErr, 4),
			ui.Fixed(d.Theirs.Value, 4), ui.Fixed(d.Theirs.StdErr, 4),
			signed(d.Gap(), 4), signed(d.InStdErrs(), 2))
	}
	return t
}

// signed is a number with its sign.
func signed(x float64, decimals int) ui.Cell {
	if math.IsNaN(x) {
		return ui.Cell{}
	}
	return ui.Cell{Value: x, Text: fmt.Sprintf("%+.*f", decimals, x)}
}

// finite is x, or nil where JSON has no number for it.
func finite(x float64) any {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return x
}

// compareSection is the comparison as the result carries it with --json.
func compareSection(diffs []Difference) []any {
	out := []any{}
	for _, d := range diffs {
		out = append(out, Object{
			{"task", d.Task}, {"metric", d.Metric},
			{"value", d.Ours.Value}, {"stderr", finite(d.Ours.StdErr)},
			{"other", d.Theirs.Value}, {"other_stderr", finite(d.Theirs.StdErr)},
			{"difference", d.Gap()}, {"standard_errors", finite(d.InStdErrs())},
		})
	}
	return out
}
