package convert

import (
	"context"
	"fmt"
	"strings"

	"mlkv/internal/absorb"
	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// starts are the ways in which a shared head comes about.
var starts = []string{"pooling", "absorb"}

// Absorbed is what convert.json tells of a start by absorption.
type Absorbed struct {
	Calibration []string `json:"calibration"`
	Rows        int      `json:"calibration_rows"`
	Seed        int64    `json:"calibration_seed"`
	Weighted    bool     `json:"weighted"`
	Device      string   `json:"device"`
	absorb.Report
}

// least is the smallest share of variance that a shared head explains, of keys or
// of values as share picks them; nil where none is fitted.
func (a *Absorbed) least(share func(absorb.HeadReport) *float64) *float64 {
	var least *float64
	for _, h := range a.Heads {
		if s := share(h); s != nil && (least == nil || *s < *least) {
			least = s
		}
	}
	return least
}

// completeAbsorb checks the options that a start by absorption needs.
func (o *Options) completeAbsorb() error {
	c := &o.Calibration
	if c.RowLength == 0 {
		c.RowLength = 2048
	}
	switch {
	case len(c.Paths) == 0:
		return ui.Usagef("start absorb: calibration: expected packed shards or text to fit shared heads on, found none; give --calibration or convert.calibration.path")
	case c.Rows < 0:
		return ui.Usagef("calibration.rows: expected 0 or more, found %d", c.Rows)
	case o.Refit < 0:
		return ui.Usagef("absorb.refit: expected 0 or more, found %d", o.Refit)
	case o.Observer == nil:
		return ui.Usagef("start absorb: no engine to run the calibration on")
	case o.KeyValueMLP:
		return ui.Usagef("start absorb: key_value_mlp: expected linear key and value projections; choose one of the two")
	}
	return nil
}

// fitting are the options of package absorb.
func (o Options) fitting() absorb.Options { return absorb.Options{Weighted: o.Weighted} }

// absorbHeads fits the shared heads of p and leaves the solution there.
func absorbHeads(ctx context.Context, src *checkpoint.Checkpoint, p *plan, o Options, record *provenance.Record, s ui.Streams) (*Absorbed, error) {
	c := o.Calibration
	c.RowLength = min(c.RowLength, p.src.MaxPositions)
	rows, sums, err := c.read(o.Source, absorb.DefaultTokens(p.src))
	if err != nil {
		return nil, err
	}
	for path, sum := range sums {
		record.Input(path, sum)
	}
	record.Seed("calibration", c.Seed)
	e, err := o.Observer()
	if err != nil {
		return nil, err
	}
	defer e.Close()
	observer, ok := e.(engine.Observer)
	if !ok {
		return nil, ui.Usagef("device: %s cannot show activations; choose cpu for the calibration", e.Info().Device)
	}
	moments, err := collect(ctx, observer, src, p, rows, o, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(c.Paths, ", "), err)
	}
	if err := fit(ctx, observer, src, p, moments, rows, o, s); err != nil {
		return nil, err
	}
	a := &Absorbed{
		Calibration: c.Paths, Rows: len(rows), Seed: c.Seed, Weighted: o.Weighted, Device: e.Info().Device, Report: p.absorbed.Report(),
	}
	for _, note := range a.notes(p) {
		fmt.Fprintln(s.Err, note)
	}
	return a, nil
}

// collect runs the calibration.
func collect(ctx context.Context, e engine.Observer, src *checkpoint.Checkpoint, p *plan, rows [][]int32, o Options, s ui.Streams) (*absorb.Moments, error) {
	progress := ui.NewProgress(s, countTokens(rows), "calibrate", ui.Count("tokens"))
	defer progress.Done()
	return absorb.Collect(ctx, e, p.src, p.dst, src, rows, o.fitting(), func(n int) { progress.Add(int64(n)) })
}

// fit makes p.absorbed.
func fit(ctx context.Context, e engine.Observer, src *checkpoint.Checkpoint, p *plan, m *absorb.Moments, rows [][]int32, o Options, s ui.Streams) error {
	progress := ui.NewProgress(s, int64(owners(p.dst)), "fit", ui.Count("owners"))
	var err error
	p.absorbed, err = absorb.Fit(ctx, p.src, p.dst, src, m, o.fitting(), func() { progress.Add(1) })
	progress.Done()
	if err != nil {
		return err
	}
	for round := range o.Refit {
		progress := ui.NewProgress(s, countTokens(rows), fmt.Sprintf("refit %d", round+1), ui.Count("tokens"))
		err := p.absorbed.Refit(ctx, e, src, rows, func(n int) { progress.Add(int64(n)) })
		progress.Done()
		if err != nil {
			return err
		}
	}
	return nil
}

// owners counts the layers that own keys, values or both.
func owners(c model.Config) int {
	n := 0
	for l := range c.Layers {
		if c.Owner.Owns(l) || c.ValueOwners().Owns(l) {
			n++
		}
	}
	return n
}

// countTokens counts those that a calibration runs.
func countTokens(rows [][]int32) int64 {
	n := 0
	for _, row := range rows {
		n += len(row)
	}
	return int64(n)
}

// notes tell what makes a fit less than it could be.
func (a *Absorbed) notes(p *plan) []string {
	var out []string
	if advised := absorb.Advised(p.src); a.Tokens < advised && len(a.Heads) > 0 {
		out = append(out, fmt.Sprintf("note: %d calibration tokens are few for regressions on %d inputs; %d or more are advised", a.Tokens, absorb.Needed(p.src), advised))
	}
	for _, owner := range a.Owners {
		if owner.Dependent > 1 {
			out = append(out, fmt.Sprintf("note: layer %d: %d of %d inputs follow from the others on the calibration text; the ridge of %.2g settles what they weigh",
				owner.Layer, owner.Dependent, owner.Inputs, owner.Ridge))
		}
	}
	return out
}
