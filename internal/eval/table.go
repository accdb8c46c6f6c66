package eval

import (
	"fmt"
	"math"

	"mlkv/internal/ui"
)

// table is the harness's table of figures (utils.py, make_table), by task and
// by metric within it.
func (o Outcome) table() *ui.Table {
	t := ui.NewTable("Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", " ", "Stderr")
	add := func(task string, version float64, shots int, metrics []Metric, estimates []Estimate) {
		for i, m := range metrics {
			name, v := task, pyFloat(version)
			if i > 0 {
				name, v = "", ""
			}
			arrow := "↓"
			if m.HigherIsBetter {
				arrow = "↑"
			}
			t.Row(name, v, "none", shots, m.Name, arrow, ui.Fixed(estimates[i].Value, 4), "±", estimates[i].stdErrCell())
		}
	}
	for _, r := range o.Tasks {
		add(r.Name, r.Version, r.Shots.Count, r.Metrics, r.Estimates)
	}
	if h := o.Heldout; h != nil {
		add(HeldoutTask, heldoutVersion, 0, []Metric{{Name: "loss"}, {Name: "perplexity"}, {Name: "bits_per_byte"}},
			[]Estimate{h.Loss, h.Perplexity, h.BitsPerByte})
	}
	return t
}

func (e Estimate) stdErrCell() any {
	if math.IsNaN(e.StdErr) {
		return "N/A"
	}
	return ui.Fixed(e.StdErr, 4)
}

// bucketTable shows the loss by position.
func (h Heldout) bucketTable() *ui.Table {
	t := ui.NewTable("Positions", "Predictions", "Loss")
	for _, b := range h.Buckets {
		t.Row(fmt.Sprintf("%d-%d", b.From, b.To), ui.Integer(b.Tokens), ui.Fixed(b.Loss, 4))
	}
	return t
}
