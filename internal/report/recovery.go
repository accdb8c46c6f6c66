package report

import (
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"mlkv/internal/ui"
)

// recovery draws a line for each row from its held-out loss right after
// conversion to the one after uptraining.
type recovery struct{ rows []*Row }

// recoveryPlot shows how much of the loss at conversion uptraining wins back;
// nil where no row has both losses.
func recoveryPlot(rows []*Row) *figure {
	r := recovery{}
	low, high := math.Inf(1), math.Inf(-1)
	for _, row := range rows {
		if row.Converted.Known() && row.Heldout.Known() {
			r.rows = append(r.rows, row)
			low = min(low, row.Converted.Value, row.Heldout.Value)
			high = max(high, row.Converted.Value, row.Heldout.Value)
		}
	}
	if r.rows == nil {
		return nil
	}
	f := newFigure("recovery", "What uptraining wins back",
		"held-out loss right after conversion (open) and after uptraining (filled)", "held-out loss, nats a token", "")
	f.height = vg.Points(120 + 24*float64(len(r.rows)))
	pad := 0.08 * (high - low)
	f.X.Min, f.X.Max = low-pad, high+pad
	f.X.Tick.Marker = roundTicks{}
	f.Y.Min, f.Y.Max = -0.6, float64(len(r.rows))-0.4
	f.Y.LineStyle.Width, f.Y.Tick.Length = 0, 0
	var names []plot.Tick
	for i, row := range r.rows {
		name := row.Name
		if row.Shape != nil {
			name += fmt.Sprintf(" (%s B)", ui.FormatInt(int64(row.Shape.KVBytes)))
		}
		names = append(names, plot.Tick{Value: r.at(i), Label: name})
	}
	f.Y.Tick.Marker = plot.ConstantTicks(names)
	f.Add(grid{vertical: true}, r)
	return f
}

// at is the height of a row; the first is at the top.
func (r recovery) at(i int) float64 { return float64(len(r.rows) - 1 - i) }

// Plot implements plot.Plotter.
func (r recovery) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	number := func(v float64, at vg.Point, right bool) {
		sty := style(9, ink, draw.XRight, draw.YCenter)
		at.X -= 7
		at.Y += 1 // YCenter counts the room below the baseline
		if right {
			sty.XAlign = draw.XLeft
			at.X += 14
		}
		c.FillText(sty, at, fmt.Sprintf("%.2f", v))
	}
	for i, row := range r.rows {
		from := vg.Point{X: x(row.Converted.Value), Y: y(r.at(i))}
		to := vg.Point{X: x(row.Heldout.Value), Y: from.Y}
		c.StrokeLine2(draw.LineStyle{Color: faint, Width: vg.Points(4)}, from.X, from.Y, to.X, to.Y)
		openDot(c, from, warm)
		fullDot(c, to, accent)
		number(row.Converted.Value, from, from.X >= to.X)
		number(row.Heldout.Value, to, from.X < to.X)
	}
}
