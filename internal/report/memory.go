package report

import (
	"fmt"
	"math"
	"regexp"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"mlkv/internal/ui"
)

// memoryPlot shows the memory of a model and its cache against the batch.
func memoryPlot(rows []*Row) *figure {
	length := measuredLength(rows)
	s := newSweep(rows, length, func(p MeasuredPoint) float64 { return float64(p.Memory) })
	if s == nil {
		return nil
	}
	for _, r := range rows {
		for _, m := range r.Measured {
			if len(s.levels) == 0 && m.Capacity > 0 {
				s.levels = append(s.levels, m.limit())
			}
		}
	}
	f := newFigure("memory", "Memory of decoding against the batch",
		fmt.Sprintf("model and cache at %s tokens a sequence; a dot is the largest batch that fits", ui.FormatInt(int64(length)))+devices(rows),
		"sequences decoded together", "memory")
	s.addTo(f, byteTicks{})
	return f
}

// limit is the line of all memory that a model could take.
func (m Measurement) limit() level {
	l := level{y: float64(m.Capacity), name: "memory of the device", left: true}
	if m.Limited {
		l.name = "memory allowed"
	}
	return l
}

// throughputPlot shows the rate of decoding against the batch.
func throughputPlot(rows []*Row) *figure {
	length := measuredLength(rows)
	s := newSweep(rows, length, func(p MeasuredPoint) float64 { return p.TokensPerSecond })
	if s == nil {
		return nil
	}
	f := newFigure("throughput", "Speed of decoding against the batch",
		fmt.Sprintf("at %s tokens a sequence; a dot is the largest batch that fits", ui.FormatInt(int64(length)))+devices(rows),
		"sequences decoded together", "tokens a second")
	s.addTo(f, decadeTicks{tokenRate})
	return f
}

var zeros = regexp.MustCompile(`\.0+(\D|$)`)

// tokenRate labels a rate without zeros behind the point.
func tokenRate(x float64) string { return zeros.ReplaceAllString(ui.FormatRate(x), "$1") }

// devices names what the rows were measured on, for the end of a subtitle.
func devices(rows []*Row) string {
	var names []string
	for _, r := range rows {
		for _, m := range r.Measured {
			if m.Device != "" && !strings.Contains(strings.Join(names, ", "), m.Device) {
				names = append(names, m.Device)
			}
		}
	}
	if names == nil {
		return ""
	}
	return "; on " + strings.Join(names, ", ")
}

// batches draws a bar for the largest batch of each model, on a logarithmic
// axis.
type batches struct {
	names []string
	bytes []int // of the cache of a token
	sizes []float64
}

// largestPlot shows the largest batch that fits; nil where none was searched.
func largestPlot(rows []*Row) *figure {
	length := measuredLength(rows)
	b := batches{}
	for _, r := range rows {
		for i, m := range r.Measured {
			if p := m.largest(length); p != nil && r.Shape != nil {
				b.names = append(b.names, measuredName(r, i))
				b.bytes = append(b.bytes, r.Shape.KVBytes*m.CacheBits/16)
				b.sizes = append(b.sizes, float64(p.Batch))
			}
		}
	}
	if len(b.sizes) == 0 {
		return nil
	}
	f := newFigure("largest-batch", "Largest batch that fits",
		fmt.Sprintf("sequences of %s tokens; in brackets the cache of a token; logarithmic", ui.FormatInt(int64(length)))+devices(rows),
		"sequences", "")
	f.height = vg.Points(120 + 24*float64(len(b.sizes)))
	low, high := math.Inf(1), 0.0
	for _, n := range b.sizes {
		low, high = min(low, n), max(high, n)
	}
	f.X.Scale, f.X.Tick.Marker = plot.LogScale{}, decadeTicks{wholeNumber}
	f.X.Min, f.X.Max = max(0.5, low/4), high*2.5
	f.Y.Min, f.Y.Max = -0.6, float64(len(b.sizes))-0.4
	f.Y.LineStyle.Width, f.Y.Tick.Length = 0, 0
	var names []plot.Tick
	for i, name := range b.names {
		names = append(names, plot.Tick{Value: b.at(i), Label: fmt.Sprintf("%s (%s B)", name, ui.FormatInt(int64(b.bytes[i])))})
	}
	f.Y.Tick.Marker = plot.ConstantTicks(names)
	f.Add(grid{vertical: true}, b)
	return f
}

// at is the height of a bar; the first is at the top.
func (b batches) at(i int) float64 { return float64(len(b.sizes) - 1 - i) }

// Plot implements plot.Plotter.
func (b batches) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	const half = 6
	for i, n := range b.sizes {
		col := tint(float64(i) / float64(max(1, len(b.sizes)-1)))
		right, mid := x(n), y(b.at(i))
		c.SetColor(col)
		c.Fill(vg.Rectangle{Min: vg.Point{X: c.Min.X, Y: mid - half}, Max: vg.Point{X: right, Y: mid + half}}.Path())
		c.FillText(style(10, ink, draw.XLeft, draw.YCenter), vg.Point{X: right + 5, Y: mid + 1}, ui.FormatInt(int64(n)))
	}
}
