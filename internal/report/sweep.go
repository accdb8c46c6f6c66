package report

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"mlkv/internal/ui"
)

// sweep draws figures of decoding against the batch, both logarithmic, a line
// for each model. A line of the second series is dashed and
// has the colour of the first series' model of its name.
type sweep struct {
	lines  []sweepLine
	levels []level
}

type sweepLine struct {
	name   string
	tint   float64 // place on the ramp of colours
	dashed bool
	xs, ys []float64
	ends   bool // at the largest batch that fits
}

// newSweep takes a figure of every measured batch of a length; nil if there is
// none.
func newSweep(rows []*Row, length int, value func(MeasuredPoint) float64) *sweep {
	s := &sweep{}
	tints := map[string]float64{}
	for _, r := range rows {
		for i, m := range r.Measured {
			l := sweepLine{name: measuredName(r, i), dashed: r.Published}
			for _, p := range m.line(length) {
				if y := value(p); y > 0 && known(y) {
					l.xs, l.ys = append(l.xs, float64(p.Batch)), append(l.ys, y)
					l.ends = p.Kind == kindLargest
				}
			}
			if len(l.xs) > 1 {
				s.lines = append(s.lines, l)
				tints[l.name] = 0
			}
		}
	}
	if len(s.lines) == 0 {
		return nil
	}
	seen := map[string]bool{}
	for _, l := range s.lines {
		if !seen[l.name] {
			tints[l.name] = float64(len(seen)) / math.Max(1, float64(len(tints)-1))
			seen[l.name] = true
		}
	}
	for i, l := range s.lines {
		s.lines[i].tint = tints[l.name]
	}
	return s
}

// measuredName is the row's name, with what tells its measurements apart where
// it has several.
func measuredName(r *Row, i int) string {
	if len(r.Measured) == 1 {
		return r.Name
	}
	m, name := r.Measured[i], r.Name
	for j, o := range r.Measured {
		if j != i && o.CacheBits != m.CacheBits {
			name += fmt.Sprintf(", %d-bit", m.CacheBits)
			break
		}
	}
	for j, o := range r.Measured {
		if j != i && o.Device != m.Device {
			return name + ", " + m.Device
		}
	}
	return name
}

// addTo sets the axes and adds the lines to the figure, with room for a legend.
func (s *sweep) addTo(f *figure, vertical plot.Ticker) {
	lowX, highX := math.Inf(1), 0.0
	lowY, highY := math.Inf(1), 0.0
	dashed := false
	for _, l := range s.lines {
		dashed = dashed || l.dashed
		for i := range l.xs {
			lowX, highX = min(lowX, l.xs[i]), max(highX, l.xs[i])
			lowY, highY = min(lowY, l.ys[i]), max(highY, l.ys[i])
		}
	}
	for _, l := range s.levels {
		highY = max(highY, l.y)
	}
	if dashed {
		f.subtitle += "; dashed: published"
	}
	f.X.Scale, f.Y.Scale = plot.LogScale{}, plot.LogScale{}
	for _, l := range s.legend() {
		f.right = max(f.right, style(labelSize, ink, draw.XLeft, draw.YCenter).Width(l.name)+legendGap+legendSwatch+8)
	}
	f.X.Min, f.X.Max = lowX/1.2, highX*1.2
	f.Y.Min, f.Y.Max = lowY/1.3, highY*1.3
	f.X.Tick.Marker, f.Y.Tick.Marker = decadeTicks{wholeNumber}, vertical
	f.Add(grid{}, s)
}

// Plot implements plot.Plotter.
func (s *sweep) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for _, l := range s.levels {
		l.draw(c, y(l.y))
	}
	for _, line := range s.lines {
		pts := make([]vg.Point, len(line.xs))
		for i := range pts {
			pts[i] = vg.Point{X: x(line.xs[i]), Y: y(line.ys[i])}
		}
		c.StrokeLines(line.style(), pts)
		if line.ends {
			c.DrawGlyphNoClip(draw.GlyphStyle{Color: tint(line.tint), Radius: dotRadius - 1, Shape: draw.CircleGlyph{}}, pts[len(pts)-1])
		}
	}
	at := vg.Point{X: c.Max.X + legendGap, Y: c.Max.Y - vg.Points(labelSize)}
	for _, line := range s.legend() {
		c.StrokeLine2(line.style(), at.X, at.Y, at.X+legendSwatch, at.Y)
		text := style(labelSize, tint(line.tint), draw.XLeft, draw.YCenter)
		c.FillText(text, vg.Point{X: at.X + legendSwatch + 5, Y: at.Y + 1}, line.name)
		at.Y -= vg.Points(labelSize * 1.6)
	}
}

const (
	legendGap    = vg.Length(14) // from the axes to the legend
	legendSwatch = vg.Length(14)
)

func (l sweepLine) style() draw.LineStyle {
	sty := draw.LineStyle{Color: tint(l.tint), Width: vg.Points(1.6)}
	if l.dashed {
		sty.Width, sty.Dashes = vg.Points(1), []vg.Length{vg.Points(4), vg.Points(2)}
	}
	return sty
}

// legend is one line for each name.
func (s *sweep) legend() []sweepLine {
	var out []sweepLine
	for _, l := range s.lines {
		if !slices.ContainsFunc(out, func(o sweepLine) bool { return o.name == l.name }) {
			out = append(out, l)
		}
	}
	return out
}

func wholeNumber(x float64) string { return ui.FormatInt(int64(math.Round(x))) }

// decadeTicks marks 1, 2 and 5 times powers of ten, those that there is room for
// with a label.
type decadeTicks struct{ label func(float64) string }

func (t decadeTicks) Ticks(low, high float64) []plot.Tick {
	decades := math.Log10(high / low)
	var out []plot.Tick
	for e := math.Floor(math.Log10(low)); e <= math.Log10(high); e++ {
		for _, d := range []float64{1, 2, 5} {
			x := d * math.Pow(10, e)
			if x < low || x > high {
				continue
			}
			tick := plot.Tick{Value: x}
			if d == 1 || decades < 4 {
				tick.Label = t.label(x)
			}
			out = append(out, tick)
		}
	}
	return out
}
