package measure

import (
	"fmt"
	"io"
	"slices"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// print writes the speed of every batch, where batches were given, and a
// summary of each model, the baseline's share beside the other's where there is
// one.
func (r *Results) print(w io.Writer, baseline string) error {
	for _, length := range r.lengths() {
		if err := r.printBatches(w, length); err != nil {
			return err
		}
	}
	return r.summary(baseline).Text(w)
}

// lengths are those of the given batches.
func (r *Results) lengths() []int {
	var out []int
	for _, m := range r.Models {
		for _, p := range m.Points {
			if p.Kind == KindBatch {
				out = append(out, p.Length)
			}
		}
	}
	return ascending(out)
}

// printBatches writes tokens a second, a line for each batch and a column for
// each model.
func (r *Results) printBatches(w io.Writer, length int) error {
	columns := []string{"batch"}
	var batches []int
	for _, m := range r.Models {
		columns = append(columns, m.Name)
		for _, p := range m.Points {
			if p.Kind == KindBatch && p.Length == length {
				batches = append(batches, p.Batch)
			}
		}
	}
	t := ui.NewTable(columns...)
	for _, batch := range ascending(batches) {
		cells := []any{batch}
		for _, m := range r.Models {
			cells = append(cells, m.speed(batch, length))
		}
		t.Row(cells...)
	}
	fmt.Fprintf(w, "tokens/s at %s tokens\n", ui.FormatInt(int64(length)))
	if err := t.Text(w); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// speed is the cell of a given batch: tokens a second, "full" where it does not
// fit, nothing beyond that.
func (m ModelResult) speed(batch, length int) any {
	i := slices.IndexFunc(m.Points, func(p Point) bool { return p.Kind == KindBatch && p.Batch == batch && p.Length == length })
	switch {
	case i < 0:
		return nil
	case m.Points[i].OutOfMemory:
		return ui.Cell{Value: "full", Text: "full"}
	}
	return ui.Cell{Value: m.Points[i].TokensPerSecond, Text: ui.FormatRate(m.Points[i].TokensPerSecond)}
}

// column is one of the summary: its heading and the cell of a model at a length,
// whose largest batch is p; nil where that was not searched or nothing fits.
type column struct {
	heading string
	cell    func(m ModelResult, p *Point) any
}

// summary has a row for each model and length. Columns that no row fills are
// left out.
func (r *Results) summary(baseline string) *ui.Table {
	type line struct {
		m ModelResult
		p *Point
	}
	var lines []line
	for _, m := range r.Models {
		points := m.all(KindLargest)
		if len(points) == 0 {
			lines = append(lines, line{m, nil})
		}
		for i := range points {
			lines = append(lines, line{m, &points[i]})
		}
	}
	var names []string
	var columns []column
	for _, c := range r.columns(baseline) {
		if slices.ContainsFunc(lines, func(l line) bool { return c.cell(l.m, l.p) != nil }) {
			names, columns = append(names, c.heading), append(columns, c)
		}
	}
	t := ui.NewTable(names...)
	for _, l := range lines {
		var cells []any
		for _, c := range columns {
			cells = append(cells, c.cell(l.m, l.p))
		}
		t.Row(cells...)
	}
	return t
}

// all are the points of a kind.
func (m ModelResult) all(kind Kind) []Point {
	return slices.DeleteFunc(slices.Clone(m.Points), func(p Point) bool { return p.Kind != kind })
}

func (r *Results) columns(baseline string) []column {
	fits := func(cell func(p Point) any) func(ModelResult, *Point) any {
		return func(_ ModelResult, p *Point) any {
			if p == nil || p.OutOfMemory {
				return nil
			}
			return cell(*p)
		}
	}
	size := func(n int64) any { return ui.Cell{Value: n, Text: ui.FormatBytes(n)} }
	cols := []column{
		{"model", func(m ModelResult, _ *Point) any { return m.Name }},
		{"KV layers x heads", func(m ModelResult, _ *Point) any {
			return fmt.Sprintf("%s x %d", model.FormatOwners(m.KVLayers, m.ValueKVLayers), m.KVHeads)
		}},
		{"KV bytes/token", func(m ModelResult, _ *Point) any { return ui.Integer(m.KVBytes) }},
		{"tokens", func(_ ModelResult, p *Point) any {
			if p == nil {
				return nil
			}
			return ui.Integer(p.Length)
		}},
		{"largest batch", func(_ ModelResult, p *Point) any {
			switch {
			case p == nil:
				return nil
			case p.OutOfMemory:
				return ui.Integer(0)
			}
			return ui.Integer(p.Batch)
		}},
		{"memory", fits(func(p Point) any { return size(p.Memory) })},
		{"KV formula", fits(func(p Point) any { return size(p.KVFormula) })},
		{"KV cache", fits(func(p Point) any { return size(p.KVAllocated) })},
		{"beyond", fits(func(p Point) any { return ui.Cell{Value: p.Beyond, Text: fmt.Sprintf("%.1f%%", 100*p.Beyond)} })},
		{"tokens/s", fits(func(p Point) any { return ui.Cell{Value: p.TokensPerSecond, Text: ui.FormatRate(p.TokensPerSecond)} })},
		{"read/s", fits(func(p Point) any { return size(int64(p.BytesPerSecond)) })},
	}
	for _, batch := range r.contextBatches() {
		cols = append(cols, column{fmt.Sprintf("longest context, batch %d", batch), func(m ModelResult, _ *Point) any {
			return m.context(batch)
		}})
	}
	if i := slices.IndexFunc(r.Models, func(m ModelResult) bool { return m.Name == baseline }); i >= 0 {
		cols = append(cols, r.Models[i].ratios()...)
	}
	return cols
}

// contextBatches are those whose longest context was searched.
func (r *Results) contextBatches() []int {
	var out []int
	for _, m := range r.Models {
		for _, p := range m.all(KindContext) {
			out = append(out, p.Batch)
		}
	}
	return ascending(out)
}

func (m ModelResult) context(batch int) any {
	for _, p := range m.all(KindContext) {
		if p.Batch == batch {
			if p.OutOfMemory {
				return ui.Integer(0)
			}
			return ui.Integer(p.Length)
		}
	}
	return nil
}

// ratios compare with m, the baseline, at the largest batch of one length.
func (m ModelResult) ratios() []column {
	of := func(heading string, get func(p Point) float64) column {
		return column{heading, func(_ ModelResult, p *Point) any {
			if p == nil || p.OutOfMemory {
				return nil
			}
			for _, q := range m.all(KindLargest) {
				if q.Length == p.Length && !q.OutOfMemory {
					x := get(*p) / get(q)
					return ui.Cell{Value: x, Text: fmt.Sprintf("%.2fx", x)}
				}
			}
			return nil
		}}
	}
	return []column{
		{"KV bytes of " + m.Name, func(o ModelResult, _ *Point) any {
			x := float64(o.KVBytes) / float64(m.KVBytes)
			return ui.Cell{Value: x, Text: fmt.Sprintf("%.1f%%", 100*x)}
		}},
		of("batch of it", func(p Point) float64 { return float64(p.Batch) }),
		of("tokens/s of it", func(p Point) float64 { return p.TokensPerSecond }),
	}
}
