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
	taken  []vg.Rectangle
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
			l.block(vg.Rectangle{Min: vg.Point{X: p.X - 1.5, Y: p.Y - 1.5}, Max: vg.Point{X: p.X + 1.5, Y: p.Y + 1.5}})
		}
	}
}

// place returns the lower left corner of a label of the given size at a
// distance from a point: to its right if that is free, or else at the side
// where it covers least.
func (l *labeller) place(at vg.Point, away, width, height vg.Length) vg.Point {
	diagonal := away * 0.7
	candidates := []vg.Point{
		{X: at.X + away, Y: at.Y - height/2},                      // right
		{X: at.X - away - width, Y: at.Y - height/2},              // left
		{X: at.X + diagonal, Y: at.Y + diagonal},                  // above right
		{X: at.X + diagonal, Y: at.Y - diagonal - height},         // below right
		{X: at.X - diagonal - width, Y: at.Y + diagonal},          // above left
		{X: at.X - diagonal - width, Y: at.Y - diagonal - height}, // below left
		{X: at.X - width/2, Y: at.Y + away},                       // above
		{X: at.X - width/2, Y: at.Y - away - height},              // below
	}
	best, cost := candidates[0], math.Inf(1)
	for i, p := range candidates {
		r := vg.Rectangle{Min: p, Max: vg.Point{X: p.X + width, Y: p.Y + height}}
		c := l.covered(r) + 0.1*float64(i)
		if l.astray(r, at) {
			c += 60
		}
		if c < cost {
			best, cost = p, c
		}
	}
	l.block(vg.Rectangle{Min: best, Max: vg.Point{X: best.X + width, Y: best.Y + height}})
	return best
}

// astray reports whether a label at r would read as that of another point than
// the one at: one that is nearly as near.
func (l *labeller) astray(r vg.Rectangle, at vg.Point) bool {
	own := distance(r, at)
	return slices.ContainsFunc(l.points, func(p vg.Point) bool { return p != at && distance(r, p) < own+3 })
}

// distance is that of a point from a rectangle.
func distance(r vg.Rectangle, p vg.Point) float64 {
	dx := max(r.Min.X-p.X, 0, p.X-r.Max.X)
	dy := max(r.Min.Y-p.Y, 0, p.Y-r.Max.Y)
	return math.Hypot(float64(dx), float64(dy))
}

// covered is the area of r that is taken or out of bounds, in square points.
func (l *labeller) covered(r vg.Rectangle) float64 {
	area := float64((r.Max.X-r.Min.X)*(r.Max.Y-r.Min.Y)) - overlap(r, l.bounds)
	for _, t := range l.taken {
		area += overlap(r, t)
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
