package report

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"mlkv/internal/ui"
)

// figures are all that the rows have figures for.
func figures(rows []*Row, tasks []string) []*figure {
	return slices.DeleteFunc([]*figure{
		scorePlot(rows, tasks), heldoutPlot(rows), recoveryPlot(rows), trainingPlot(rows), heldoutCurves(rows),
		largestPlot(rows), memoryPlot(rows), throughputPlot(rows),
	}, func(f *figure) bool { return f == nil })
}

// Plot writes every figure that the rows have figures for, each as PNG and SVG,
// into dir and returns the files.
func Plot(ctx context.Context, rows []*Row, tasks []string, dir string, force bool) ([]string, error) {
	all := figures(rows, tasks)
	if len(all) == 0 {
		return nil, ui.Inputf("plots: expected scores or held-out losses of models of known cache size, training runs or measurements, found none")
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, ui.Usagef("plots: %w", err)
	}
	var files []string
	for _, f := range all {
		if err := ctx.Err(); err != nil {
			return files, err
		}
		out, err := f.write(dir, force)
		files = append(files, out...)
		if err != nil {
			return files, err
		}
	}
	return files, nil
}

// scorePlot shows average accuracy against the cache of one token.
func scorePlot(rows []*Row, tasks []string) *figure {
	counted := averaged(rows, tasks)
	value := func(r *Row) Estimate { return percent(r.Average(counted)) }
	s := newScatter(rows, value, true)
	if s == nil {
		return nil
	}
	f := newFigure("score", "Accuracy against key/value cache",
		"mean of "+strings.Join(counted, ", ")+"; bars are one standard error",
		"KV cache of one token at 16 bits", "average accuracy, %")
	for _, r := range rows {
		if r.Shape == nil && value(r).Known() {
			s.level(value(r).Value, r.Name)
		}
	}
	s.addTo(f)
	return f
}

// heldoutPlot shows held-out loss against the cache of one token.
func heldoutPlot(rows []*Row) *figure {
	s := newScatter(rows, func(r *Row) Estimate { return r.Heldout }, false)
	if s == nil {
		return nil
	}
	f := newFigure("heldout", "Held-out loss against key/value cache",
		"lower is better; bars are one standard error",
		"KV cache of one token at 16 bits", "held-out loss, nats a token")
	s.addTo(f)
	return f
}

// trainingPlot shows the training loss over the steps.
func trainingPlot(rows []*Row) *figure {
	c := newCurves(rows, func(p Point) float64 { return p.Loss })
	if c == nil {
		return nil
	}
	window := c.smooth()
	subtitle := "each logged step"
	if window > 1 {
		subtitle = fmt.Sprintf("mean over about %d steps", window)
	}
	f := newFigure("training", "Training loss", subtitle, "step", "loss, nats a token")
	c.addTo(f)
	return f
}

// heldoutCurves shows the held-out loss over the steps, where it was measured
// on the way.
func heldoutCurves(rows []*Row) *figure {
	c := newCurves(rows, func(p Point) float64 { return p.Heldout })
	if c == nil {
		return nil
	}
	c.marks = true
	f := newFigure("heldout-curve", "Held-out loss during uptraining", "step 0 is the model right after conversion",
		"step", "held-out loss, nats a token")
	c.addTo(f)
	return f
}

// known reports whether x is a finite number.
func known(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
