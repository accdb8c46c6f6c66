package report

import (
	"math"
	"slices"

	"gonum.org/v1/plot/vg"
)

// labeller finds places for labels beside points so that they cover neither
// each other nor what was drawn.
type labeller struct {
	bounds vg.Rectangle
	taken  []vg.Rectangle // by what was drawn
	labels []vg.Rectangle
	points []vg.Point // of all labels, placed or not
}

// block marks a rectangle as drawn on.
func (l *labeller) block(r vg.Rectangle) { l.taken = append(l.taken, r) }

// blockLine marks a line as drawn on.
func (l *labeller) blockLine(line []vg.Point) {
	const every = 3 // points between the squares that stand for the line
	for i := 1; i < len(line); i++ {
		d := line[i].Sub(line[i-1])
		n := max(1, int(math.Hypot(float64(d.X), float64(d.Y))/every))
		for j := range n {
			p := line[i-1].Add(d.Scale(vg.Length(j) / vg.Length(n)))
			l.block(around(p, 1.5, 1.5))
		}
	}
}

// label is a text to be placed beside a point.
type label struct {
	at            vg.Point
	away          vg.Length // least distance from the point
	width, height vg.Length
}

// place returns where each label goes: to the right of its point
// if that is free, or else where it covers least and is not taken for the label
// of another point. It goes over all labels several times, since each restricts
// the others.
func (l *labeller) place(labels []label) []vg.Rectangle {
	l.labels = make([]vg.Rectangle, len(labels))
	for range 4 {
		for i, lab := range labels {
			l.labels[i] = vg.Rectangle{}
			l.labels[i] = l.best(lab)
		}
	}
	return l.labels
}

// best is the place of a label that costs least as the others stand.
func (l *labeller) best(lab label) vg.Rectangle {
	var best vg.Rectangle
	cost := math.Inf(1)
	for i, p := range places(lab.at, lab.away, lab.width, lab.height) {
		r := vg.Rectangle{Min: p, Max: vg.Point{X: p.X + lab.width, Y: p.Y + lab.height}}
		c := l.covered(r) + 0.5*float64(i)
		if l.astray(r, lab.at, 3) {
			c += 200
		}
		if l.astray(r, lab.at, 0) {
			c += 400
		}
		if c < cost {
			best, cost = r, c
		}
	}
	return best
}

// places are lower left corners around a point, the preferred ones first.
func places(at vg.Point, away, width, height vg.Length) []vg.Point {
	var out []vg.Point
	for _, d := range []vg.Length{away, 2.2 * away, 3.4 * away} {
		side := d * 0.7 // of a diagonal
		out = append(out,
			vg.Point{X: at.X + d, Y: at.Y - 0.4*height},
			vg.Point{X: at.X - d - width, Y: at.Y - 0.4*height},
			vg.Point{X: at.X + side, Y: at.Y + side},
			vg.Point{X: at.X + side, Y: at.Y - side - height},
			vg.Point{X: at.X - side - width, Y: at.Y + side},
			vg.Point{X: at.X - side - width, Y: at.Y - side - height},
			vg.Point{X: at.X - width/2, Y: at.Y + d},
			vg.Point{X: at.X - width/2, Y: at.Y - d - height},
		)
	}
	return out
}

// astray reports whether a label at r may read as that of another point than
// the one at: one that is nearer, or further by less than the margin.
func (l *labeller) astray(r vg.Rectangle, at vg.Point, margin float64) bool {
	own := distance(r, at)
	return slices.ContainsFunc(l.points, func(p vg.Point) bool { return p != at && distance(r, p) < own+margin })
}

func clamp(x, low, high vg.Length) vg.Length { return min(max(x, low), high) }

// distance is that of a point from a rectangle.
func distance(r vg.Rectangle, p vg.Point) float64 {
	dx := max(r.Min.X-p.X, 0, p.X-r.Max.X)
	dy := max(r.Min.Y-p.Y, 0, p.Y-r.Max.Y)
	return math.Hypot(float64(dx), float64(dy))
}

// covered is the area of r that is taken or out of bounds, in square points;
// other labels count most.
func (l *labeller) covered(r vg.Rectangle) float64 {
	area := 4 * (float64((r.Max.X-r.Min.X)*(r.Max.Y-r.Min.Y)) - overlap(r, l.bounds))
	for _, t := range l.taken {
		area += overlap(r, t)
	}
	for _, t := range l.labels {
		area += 4 * overlap(r, t)
	}
	return area
}

func overlap(a, b vg.Rectangle) float64 {
	w := min(a.Max.X, b.Max.X) - max(a.Min.X, b.Min.X)
	h := min(a.Max.Y, b.Max.Y) - max(a.Min.Y, b.Min.Y)
	if w <= 0 || h <= 0 {
		return 0
	}
	return float64(w * h)
}

// spreadOut moves positions apart until neighbours are at least gap from each
// other, each as near to where it was as the others allow. The order stays.
func spreadOut(at []vg.Length, gap vg.Length) []vg.Length {
	order := make([]int, len(at))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if at[a] < at[b] {
			return -1
		}
		if at[a] > at[b] {
			return 1
		}
		return 0
	})
	// Runs of labels that touch are centred on the mean of where they want to
	// be; runs that come to touch are joined.
	type run struct {
		sum vg.Length // of wanted positions, each less its offset in the run
		n   int
	}
	start := func(r run) vg.Length { return r.sum / vg.Length(r.n) }
	var runs []run
	for _, i := range order {
		runs = append(runs, run{at[i], 1})
		for len(runs) > 1 {
			a, b := runs[len(runs)-2], runs[len(runs)-1]
			if start(a)+vg.Length(a.n)*gap <= start(b) {
				break
			}
			// b's offsets now begin after a's.
			joined := run{a.sum + b.sum - vg.Length(b.n)*vg.Length(a.n)*gap, a.n + b.n}
			runs = append(runs[:len(runs)-2], joined)
		}
	}
	out := make([]vg.Length, len(at))
	k := 0
	for _, r := range runs {
		for j := range r.n {
			out[order[k]] = start(r) + vg.Length(j)*gap
			k++
		}
	}
	return out
}
