package report

import (
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"mlkv/internal/ui"
)

// scatter draws a figure of each row against its cache size, with error bars,
// direct labels and the frontier: the points that no other beats with a cache
// as small.
type scatter struct {
	dots   []dot
	levels []level
	higher bool // greater values are better
	two    bool // both series are shown
}

type dot struct {
	name      string
	x, y, err float64
	published bool
	labelled  bool
}

// level is a value without a cache size, drawn as a line across.
type level struct {
	y    float64
	name string
	left bool // where the name stands
}

// newScatter takes the rows of known cache size and value; nil if there are
// fewer than two.
func newScatter(rows []*Row, value func(*Row) Estimate, higher bool) *scatter {
	s := &scatter{higher: higher}
	own := map[string]bool{}
	for _, r := range rows {
		v := value(r)
		if r.Shape == nil || !v.Known() {
			continue
		}
		if !r.Published {
			own[r.Name] = true
		}
		s.dots = append(s.dots, dot{name: r.Name, x: float64(r.Shape.KVBytes), y: v.Value, err: v.spread(), published: r.Published})
	}
	if len(s.dots) < 2 {
		return nil
	}
	for i, d := range s.dots {
		// Of two rows of one name, one label is enough.
		s.dots[i].labelled = !d.published || !own[d.name]
		s.two = s.two || d.published != s.dots[0].published
	}
	return s
}

func (s *scatter) level(y float64, name string) { s.levels = append(s.levels, level{y: y, name: name}) }

// addTo sets the axes and adds the scatter to the figure.
func (s *scatter) addTo(f *figure) {
	f.X.Scale, f.X.Tick.Marker = plot.LogScale{}, byteTicks{}
	f.Y.Tick.Marker = roundTicks{}
	lowX, highX := math.Inf(1), 0.0
	lowY, highY := math.Inf(1), math.Inf(-1)
	for _, d := range s.dots {
		lowX, highX = min(lowX, d.x), max(highX, d.x)
		lowY, highY = min(lowY, d.y-d.err), max(highY, d.y+d.err)
	}
	for _, l := range s.levels {
		// A level far from the points would squeeze them together.
		if distance := max(lowY-l.y, l.y-highY); distance > (highY-lowY)/2 {
			f.subtitle += fmt.Sprintf("; %s: %.1f", l.name, l.y)
			continue
		}
		lowY, highY = min(lowY, l.y), max(highY, l.y)
	}
	pad := max(0.09*(highY-lowY), 1e-3*math.Abs(highY))
	f.X.Min, f.X.Max = lowX/1.7, highX*1.7
	f.Y.Min, f.Y.Max = lowY-pad, highY+pad
	if s.two {
		f.subtitle += "; filled: own, open: published"
	}
	f.Add(grid{}, s)
}

func (d dot) color() color.Color {
	if d.published {
		return soft
	}
	return accent
}

// Plot implements plot.Plotter.
func (s *scatter) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	l := labeller{bounds: c.Rectangle}
	for _, line := range s.levels {
		if line.y >= p.Y.Min && line.y <= p.Y.Max {
			line.draw(c, y(line.y))
		}
	}
	at := s.positions(x, y)
	for _, published := range []bool{true, false} {
		l.blockLine(s.drawFrontier(c, at, published))
	}
	for i, d := range s.dots {
		low, high := y(d.y-d.err), y(d.y+d.err)
		c.StrokeLine2(draw.LineStyle{Color: d.color(), Width: vg.Points(1)}, at[i].X, low, at[i].X, high)
		l.points = append(l.points, at[i])
		l.block(around(at[i], dotRadius, dotRadius))
		l.block(vg.Rectangle{Min: vg.Point{X: at[i].X - 1, Y: low}, Max: vg.Point{X: at[i].X + 1, Y: high}})
	}
	for i, d := range s.dots {
		if d.published {
			openDot(c, at[i], d.color())
		} else {
			fullDot(c, at[i], d.color())
		}
	}
	s.drawNames(c, at, &l)
}

// drawNames writes the name of each labelled dot where the labeller finds room,
// with a line to the dot where another dot is nearer.
func (s *scatter) drawNames(c draw.Canvas, at []vg.Point, l *labeller) {
	sty := style(10, ink, draw.XLeft, draw.YBottom)
	var labels []label
	var named []dot
	for i, d := range s.dots {
		if d.labelled {
			named = append(named, d)
			labels = append(labels, label{at[i], dotRadius + 3, sty.Width(d.name), sty.Height(d.name)})
		}
	}
	for i, r := range l.place(labels) {
		if l.astray(r, labels[i].at, 0) {
			c.StrokeLine2(draw.LineStyle{Color: soft, Width: vg.Points(0.6)}, labels[i].at.X, labels[i].at.Y,
				clamp(labels[i].at.X, r.Min.X-1, r.Max.X+1), clamp(labels[i].at.Y, r.Min.Y, r.Max.Y))
		}
		sty.Color = ink
		if named[i].published {
			sty.Color = soft
		}
		c.FillText(sty, r.Min, named[i].name)
	}
}

func (l level) draw(c draw.Canvas, y vg.Length) {
	dashed := draw.LineStyle{Color: soft, Width: vg.Points(0.8), Dashes: []vg.Length{vg.Points(4), vg.Points(3)}}
	c.StrokeLine2(dashed, c.Min.X, y, c.Max.X, y)
	sty, at := style(9, soft, draw.XRight, draw.YBottom), vg.Point{X: c.Max.X, Y: y + 2}
	if l.left {
		sty.XAlign, at.X = draw.XLeft, c.Min.X+4
	}
	c.FillText(sty, at, l.name)
}

// positions places the dots. One that would cover another of the same cache
// size steps aside.
func (s *scatter) positions(x, y func(float64) vg.Length) []vg.Point {
	const step = 2*dotRadius + 1
	at := make([]vg.Point, len(s.dots))
	for i, d := range s.dots {
		at[i] = vg.Point{X: x(d.x), Y: y(d.y)}
		for slices.ContainsFunc(at[:i], func(p vg.Point) bool { return distance(around(p, 0, 0), at[i]) < step }) {
			at[i].X += step
		}
	}
	return at
}

// around is the rectangle that reaches the given lengths from its centre.
func around(p vg.Point, dx, dy vg.Length) vg.Rectangle {
	return vg.Rectangle{Min: vg.Point{X: p.X - dx, Y: p.Y - dy}, Max: vg.Point{X: p.X + dx, Y: p.Y + dy}}
}

// drawFrontier joins the points of a series that no other point of it beats
// with a cache as small, and returns the line.
func (s *scatter) drawFrontier(c draw.Canvas, at []vg.Point, published bool) []vg.Point {
	var line []vg.Point
	for _, i := range s.frontier(published) {
		line = append(line, at[i])
	}
	if len(line) < 2 {
		return nil
	}
	tint := color.RGBA{0xa9, 0xc8, 0xe4, 0xff}
	if published {
		tint = color.RGBA{0xc8, 0xc8, 0xc8, 0xff}
	}
	c.StrokeLines(draw.LineStyle{Color: tint, Width: vg.Points(1.6)}, line)
	return line
}

// frontier returns the unbeaten points of a series by their place in s.dots,
// from the smallest cache.
func (s *scatter) frontier(published bool) []int {
	var out []int
	for i, d := range s.dots {
		if d.published == published && !slices.ContainsFunc(s.dots, func(o dot) bool { return o.published == published && s.beats(o, d) }) {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(s.dots[a].x, s.dots[b].x) })
	return out
}

// beats reports whether a has a better value than b with a cache no larger, or
// the same value with a smaller cache.
func (s *scatter) beats(a, b dot) bool {
	better := a.y > b.y
	if !s.higher {
		better = a.y < b.y
	}
	return a.x <= b.x && (better || a.y == b.y && a.x < b.x)
}

// byteTicks marks powers of two, at most eight of them with a label.
type byteTicks struct{}

func (byteTicks) Ticks(low, high float64) []plot.Tick {
	first, last := int(math.Ceil(math.Log2(low))), int(math.Floor(math.Log2(high)))
	every := 1 + (last-first)/9
	var out []plot.Tick
	for e := first; e <= last; e++ {
		t := plot.Tick{Value: math.Exp2(float64(e))}
		if (e-first)%every == 0 {
			t.Label = powerLabel(e)
		}
		out = append(out, t)
	}
	return out
}

// powerLabel writes 2^e bytes: "512 B", "16 KiB".
func powerLabel(e int) string {
	const digits = 3 // of ui.FormatBytes, which would write 1.00 KiB
	s := ui.FormatBytes(1 << e)
	if len(s) > digits && e >= 10 {
		n := 1 << (e % 10)
		return ui.FormatInt(int64(n)) + s[len(s)-len(" KiB"):]
	}
	return s
}
