package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"mlkv/internal/config"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// column is one column of the table: its heading for readers, its name for
// programs, and the cell of a row.
type column struct {
	heading, name string
	cell          func(r *Row) any
}

// Table lays rows out, one a model. Accuracies are in percent. Columns that no
// row fills are left out; csv and json have standard errors in columns of their
// own.
func Table(rows []*Row, tasks []string, format string) *ui.Table {
	machine := format == "csv" || format == "json"
	var cols []column
	for _, c := range columns(rows, tasks, machine) {
		if slices.ContainsFunc(rows, func(r *Row) bool { return !empty(c.cell(r)) }) {
			cols = append(cols, c)
		}
	}
	names := make([]string, len(cols))
	for i, c := range cols {
		names[i] = c.heading
		if machine {
			names[i] = c.name
		}
	}
	t := ui.NewTable(names...)
	for _, r := range rows {
		cells := make([]any, len(cols))
		for i, c := range cols {
			cells[i] = c.cell(r)
		}
		t.Row(cells...)
	}
	return t
}

func empty(cell any) bool {
	c, ok := cell.(ui.Cell)
	return cell == nil || ok && c.Value == nil
}

func columns(rows []*Row, tasks []string, machine bool) []column {
	cols := []column{{"model", "name", func(r *Row) any { return r.Name }}}
	if slices.ContainsFunc(rows, func(r *Row) bool { return r.Published }) {
		cols = append(cols, column{"series", "series", func(r *Row) any { return r.series() }})
	}
	cols = append(cols, shapeColumns(rows, machine)...)
	add := func(heading, name string, decimals int, scale float64, get func(r *Row) Estimate) {
		cols = append(cols, column{heading, name, func(r *Row) any { return ui.Fixed(scale*get(r).Value, decimals) }})
		if machine {
			cols = append(cols, column{"", name + "_stderr", func(r *Row) any { return ui.Fixed(scale*get(r).StdErr, decimals) }})
		}
	}
	add("loss converted", "loss_converted", 3, 1, func(r *Row) Estimate { return r.Converted })
	add("loss", "loss", 3, 1, func(r *Row) Estimate { return r.Heldout })
	add("bits/byte", "bits_per_byte", 3, 1, func(r *Row) Estimate { return r.BitsPerByte })
	for _, task := range shownTasks(rows, tasks, machine) {
		add(task, task, 2, 100, func(r *Row) Estimate {
			if acc, ok := r.Accuracy[task]; ok {
				return acc
			}
			return unknown
		})
	}
	counted := averaged(rows, tasks)
	add("average", "average", 2, 100, func(r *Row) Estimate { return r.Average(counted) })
	return append(cols, measuredColumns(rows)...)
}

// measuredColumns are of each row's first measurement: the one on the device
// with most memory.
func measuredColumns(rows []*Row) []column {
	length := measuredLength(rows)
	of := func(find func(m Measurement) *MeasuredPoint, get func(p *MeasuredPoint) any) func(r *Row) any {
		return func(r *Row) any {
			if len(r.Measured) == 0 {
				return nil
			}
			if p := find(r.Measured[0]); p != nil {
				return get(p)
			}
			return nil
		}
	}
	largest := func(m Measurement) *MeasuredPoint { return m.largest(length) }
	context := func(m Measurement) *MeasuredPoint { return m.context(1) }
	return []column{
		{"largest batch", "largest_batch", of(largest, func(p *MeasuredPoint) any { return ui.Integer(p.Batch) })},
		{"tokens/s there", "tokens_per_second", of(largest, func(p *MeasuredPoint) any {
			return ui.Cell{Value: p.TokensPerSecond, Text: ui.FormatRate(p.TokensPerSecond)}
		})},
		{"longest context", "longest_context", of(context, func(p *MeasuredPoint) any { return ui.Integer(p.Length) })},
	}
}

// shapeColumns describe the models. The cache is compared with the first row's
// that is known, the largest.
func shapeColumns(rows []*Row, machine bool) []column {
	var largest *Shape
	if i := slices.IndexFunc(rows, func(r *Row) bool { return r.Shape != nil }); i >= 0 {
		largest = rows[i].Shape
	}
	of := func(get func(s *Shape) any) func(r *Row) any {
		return func(r *Row) any {
			if r.Shape == nil {
				return nil
			}
			return get(r.Shape)
		}
	}
	parameters := column{"parameters", "parameters", of(func(s *Shape) any { return ui.Integer(s.Parameters) })}
	bytes := column{"KV bytes/token", "kv_bytes_per_token", of(func(s *Shape) any { return ui.Integer(s.KVBytes) })}
	ratio := column{"of largest", "kv_ratio", of(func(s *Shape) any {
		x := float64(s.KVBytes) / float64(largest.KVBytes)
		return ui.Cell{Value: x, Text: fmt.Sprintf("%.1f%%", 100*x)}
	})}
	if machine {
		cols := []column{
			{"", "kv_layers", of(func(s *Shape) any { return s.Owners })},
			{"", "kv_heads", of(func(s *Shape) any { return s.KVHeads })},
			parameters, bytes, ratio,
		}
		if slices.ContainsFunc(rows, func(r *Row) bool { return r.Shape != nil && r.Shape.ValueOwners > 0 }) {
			values := of(func(s *Shape) any { return cmp.Or(s.ValueOwners, s.Owners) })
			cols = slices.Insert(cols, 1, column{"", "value_kv_layers", values})
		}
		return cols
	}
	heads := column{"KV layers x heads", "", of(func(s *Shape) any {
		return fmt.Sprintf("%s x %d", model.FormatOwners(s.Owners, s.ValueOwners), s.KVHeads)
	})}
	return []column{heads, parameters, bytes, ratio}
}

// shownTasks are the tasks with columns: all for programs, and for readers
// those that this program evaluates or that the average is taken of.
func shownTasks(rows []*Row, tasks []string, machine bool) []string {
	all := taskOrder(rows)
	if machine {
		return all
	}
	return slices.DeleteFunc(all, func(t string) bool {
		return !slices.Contains(config.Tasks, t) && !slices.Contains(tasks, t)
	})
}

// taskOrder lists the tasks of all rows: the paper's in its order, then others
// by name.
func taskOrder(rows []*Row) []string {
	seen := map[string]bool{}
	for _, r := range rows {
		for t := range r.Accuracy {
			seen[t] = true
		}
	}
	var out []string
	for _, t := range PaperTasks {
		if seen[t] {
			out = append(out, t)
			delete(seen, t)
		}
	}
	return append(out, slices.Sorted(maps.Keys(seen))...)
}

// unequalHeldout warns of rows whose two held-out losses were measured on
// different amounts of text.
func unequalHeldout(rows []*Row) []string {
	var out []string
	for _, r := range rows {
		a, b := r.ConvertedTokens, r.HeldoutTokens
		if r.Converted.Known() && r.Heldout.Known() && a != b && a > 0 && b > 0 {
			out = append(out, fmt.Sprintf("%s: the held-out loss right after conversion is of %s tokens, the other of %s",
				r.Name, ui.FormatInt(int64(a)), ui.FormatInt(int64(b))))
		}
	}
	return out
}

// percent is a share from 0 to 1 in percent.
func percent(e Estimate) Estimate { return Estimate{100 * e.Value, 100 * e.StdErr} }

// spread is the standard error, 0 where it is not known.
func (e Estimate) spread() float64 {
	if math.IsNaN(e.StdErr) {
		return 0
	}
	return e.StdErr
}
