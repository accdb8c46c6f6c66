package report

import (
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// curves draws a line for each run over its steps, named at its right end.
type curves struct {
	lines []curve
	marks bool // draw the points too
}

type curve struct {
	name      string
	published bool
	xs, ys    []float64
}

// newCurves takes the points of known value of each row; nil if no row has two.
func newCurves(rows []*Row, value func(Point) float64) *curves {
	c := &curves{}
	for _, r := range rows {
		l := curve{name: r.Name, published: r.Published}
		for _, p := range r.Curve {
			if v := value(p); known(v) {
				l.xs, l.ys = append(l.xs, float64(p.Step)), append(l.ys, v)
			}
		}
		if len(l.xs) > 1 {
			c.lines = append(c.lines, l)
		}
	}
	if len(c.lines) == 0 {
		return nil
	}
	return c
}

// smooth replaces each line by its exponential mean, so that at most about
// thirty independent values remain, and returns the width in steps.
func (c *curves) smooth() int {
	window := 1
	for _, l := range c.lines {
		window = max(window, len(l.xs)/30)
	}
	if window == 1 {
		return 1
	}
	keep := 1 - 1/float64(window)
	steps := 1.0
	for _, l := range c.lines {
		mean, weight := 0.0, 0.0
		for i, y := range l.ys {
			mean = keep*mean + (1-keep)*y
			weight = keep*weight + (1 - keep)
			l.ys[i] = mean / weight
		}
		steps = max(steps, (l.xs[len(l.xs)-1]-l.xs[0])/float64(len(l.xs)-1))
	}
	return int(math.Round(float64(window) * steps))
}

// ramp runs from the colour of the largest cache to that of the smallest.
var ramp = []color.RGBA{
	{0x3b, 0x1c, 0x6e, 0xff}, {0x2f, 0x5f, 0xa5, 0xff}, {0x1f, 0x93, 0x8c, 0xff},
	{0x6a, 0xae, 0x3b, 0xff}, {0xe0, 0x9a, 0x12, 0xff}, {0xc8, 0x3a, 0x2a, 0xff},
}

// tint is the colour at a place from 0 to 1 on the ramp.
func tint(at float64) color.Color {
	x := at * float64(len(ramp)-1)
	i := min(int(x), len(ramp)-2)
	t := x - float64(i)
	mix := func(a, b uint8) uint8 { return uint8(math.Round(float64(a)*(1-t) + float64(b)*t)) }
	a, b := ramp[i], ramp[i+1]
	return color.RGBA{mix(a.R, b.R), mix(a.G, b.G), mix(a.B, b.B), 0xff}
}

const labelSize = 10

// addTo sets the axes and adds the lines to the figure, with room for names.
func (c *curves) addTo(f *figure) {
	f.X.Min, f.X.Max = 0, 1
	f.Y.Min, f.Y.Max = math.Inf(1), math.Inf(-1)
	sty := style(labelSize, ink, draw.XLeft, draw.YCenter)
	for _, l := range c.lines {
		f.right = max(f.right, sty.Width(l.name)+vg.Points(16))
		for i := range l.xs {
			f.X.Max = max(f.X.Max, l.xs[i])
			f.Y.Min, f.Y.Max = min(f.Y.Min, l.ys[i]), max(f.Y.Max, l.ys[i])
		}
	}
	pad := 0.05 * (f.Y.Max - f.Y.Min)
	f.Y.Min, f.Y.Max = f.Y.Min-pad, f.Y.Max+pad
	f.X.Tick.Marker, f.Y.Tick.Marker = roundTicks{}, roundTicks{}
	f.Add(grid{}, c)
}

// Plot implements plot.Plotter.
func (c *curves) Plot(canvas draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&canvas)
	ends := make([]vg.Length, len(c.lines))
	for i, l := range c.lines {
		pts := make([]vg.Point, len(l.xs))
		for j := range l.xs {
			pts[j] = vg.Point{X: x(l.xs[j]), Y: y(l.ys[j])}
		}
		sty := draw.LineStyle{Color: c.tint(i), Width: vg.Points(1.6)}
		if l.published {
			sty.Dashes = []vg.Length{vg.Points(4), vg.Points(2)}
		}
		canvas.StrokeLines(sty, pts)
		if c.marks {
			for _, pt := range pts {
				canvas.DrawGlyphNoClip(draw.GlyphStyle{Color: c.tint(i), Radius: vg.Points(2.5), Shape: draw.CircleGlyph{}}, pt)
			}
		}
		ends[i] = pts[len(pts)-1].Y
	}
	sty := style(labelSize, ink, draw.XLeft, draw.YCenter)
	for i, at := range spreadOut(ends, vg.Points(labelSize+2.5)) {
		l := c.lines[i]
		end := vg.Point{X: x(l.xs[len(l.xs)-1]), Y: ends[i]}
		canvas.StrokeLines(draw.LineStyle{Color: c.tint(i), Width: vg.Points(0.6)},
			[]vg.Point{{X: end.X + 2, Y: end.Y}, {X: canvas.Max.X + 10, Y: at}})
		sty.Color = c.tint(i)
		canvas.FillText(sty, vg.Point{X: canvas.Max.X + 13, Y: at}, l.name)
	}
}

// tint is the colour of a line; rows come from the largest cache to the
// smallest.
func (c *curves) tint(i int) color.Color {
	return tint(float64(i) / float64(max(1, len(c.lines)-1)))
}
