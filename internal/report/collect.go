package report

import (
	"cmp"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mlkv/internal/ui"
)

// sources are what was found below the given paths, before it is put together
// to rows.
type sources struct {
	evaluations []*evaluation
	runs        []folderRow // of uptrain
	converted   []folderRow
	measured    []measuredRow
}

// folderRow is what a folder says of a row.
type folderRow struct {
	dir string
	row *Row
}

// Collect reads result files, run folders and folders of them, and puts what
// belongs to one name into one row. Rows come from the largest cache to the
// smallest.
func Collect(paths, published []string) ([]*Row, error) {
	var rows []*Row
	for _, series := range []struct {
		paths     []string
		published bool
	}{{paths, false}, {published, true}} {
		var s sources
		for _, p := range series.paths {
			before := s.count()
			if err := s.add(p); err != nil {
				return nil, err
			}
			if s.count() == before {
				return nil, ui.Inputf("%s: expected result files (JSON with \"results\"), measurements, run folders (with %s) or converted checkpoints (with %s), found none", p, metricsFile, convertFile)
			}
		}
		for _, r := range s.rows() {
			r.Published = series.published
			rows = append(rows, r)
		}
	}
	sortRows(rows)
	return rows, nil
}

func (s *sources) count() int {
	return len(s.evaluations) + len(s.runs) + len(s.converted) + len(s.measured)
}

// add reads a path that the user named.
func (s *sources) add(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return ui.Inputf("report: expected a file or a folder: %w", err)
	}
	if info.IsDir() {
		return filepath.WalkDir(path, s.visit)
	}
	return s.addFile(path)
}

// addFile reads a result file or a file of measurements. One of another kind is
// passed over.
func (s *sources) addFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return ui.Inputf("result file: %w", err)
	}
	if filepath.Ext(path) == ".csv" {
		m, err := parseMeasuredCSV(path, data)
		s.measured = append(s.measured, m...)
		return err
	}
	m, err := parseMeasured(path, data)
	if len(m) > 0 || err != nil {
		s.measured = append(s.measured, m...)
		return err
	}
	e, err := parseResult(path, data)
	if e != nil {
		s.evaluations = append(s.evaluations, e)
	}
	return err
}

// inside are folders within runs that hold nothing to compare.
var inside = []string{"checkpoints", "tensorboard", "model"}

// visit takes up what a walk through a folder meets. JSON that is no result
// file is passed over.
func (s *sources) visit(path string, d fs.DirEntry, err error) error {
	if err != nil {
		return ui.Inputf("report: expected a file or a folder: %w", err)
	}
	if !d.IsDir() {
		if filepath.Ext(path) != ".json" || d.Name() == "tokenizer.json" {
			return nil
		}
		if err := s.addFile(path); err != nil && (strings.Contains(d.Name(), "results") || strings.Contains(d.Name(), "measurements")) {
			return err
		}
		return nil
	}
	if has(path, convertFile) {
		return s.addConverted(path)
	}
	if has(path, metricsFile) {
		return s.addRun(path)
	}
	if slices.Contains(inside, d.Name()) && has(filepath.Dir(path), metricsFile) {
		return filepath.SkipDir
	}
	return nil
}

func has(dir, file string) bool {
	info, err := os.Stat(filepath.Join(dir, file))
	return err == nil && info.Mode().IsRegular()
}

func (s *sources) addConverted(dir string) error {
	r := newRow(folderName(dir))
	var err error
	if r.Shape, err = readShape(dir); err != nil {
		return err
	}
	s.converted = append(s.converted, folderRow{dir, r})
	return filepath.SkipDir
}

func (s *sources) addRun(dir string) error {
	r, err := readRun(dir)
	if err != nil {
		return err
	}
	s.runs = append(s.runs, folderRow{dir, r})
	return nil
}

// group is what belongs to one row.
type group struct {
	work  string // folder of the run, or what else the model is known by
	named string // by a configuration or result file
	run   *Row
	shape *Shape // of the converted checkpoint, or of what was measured
	evals []*evaluation
	taken []Measurement
}

// rows puts together what belongs to one work folder, and what has one name
// where no work folder says otherwise.
func (s *sources) rows() []*Row {
	var groups []*group
	in := func(work string) *group {
		if abs, err := filepath.Abs(work); err == nil {
			work = abs
		}
		if i := slices.IndexFunc(groups, func(g *group) bool { return g.work == work }); i >= 0 {
			return groups[i]
		}
		groups = append(groups, &group{work: work})
		return groups[len(groups)-1]
	}
	for _, f := range s.runs {
		g := in(workFolder(f.dir))
		g.run, g.named = f.row, f.row.Name
	}
	for _, f := range s.converted {
		in(workFolder(f.dir)).shape = f.row.Shape
	}
	for _, e := range s.evaluations {
		g := in(e.work())
		g.evals = append(g.evals, e)
		g.named = e.row.Name
	}
	for _, m := range s.measured {
		g := in(m.work)
		g.taken = append(g.taken, m.Measurement)
		g.named = cmp.Or(g.named, m.name)
		g.shape = cmp.Or(g.shape, m.shape)
	}
	return toRows(joinNames(groups))
}

// joinNames joins groups of one name of which one has a run and the other has
// evaluations, as when a folder was moved. Others of one name are told apart by
// their folders.
func joinNames(groups []*group) []*group {
	var out []*group
	for _, g := range groups {
		if g.named == "" {
			g.named = filepath.Base(g.work)
		}
		i := slices.IndexFunc(out, func(o *group) bool { return o.named == g.named })
		switch {
		case i < 0:
			out = append(out, g)
		case (out[i].run == nil || g.run == nil) && (out[i].evals == nil || g.evals == nil):
			o := out[i]
			o.run, o.shape = cmp.Or(o.run, g.run), cmp.Or(o.shape, g.shape)
			o.evals, o.taken = append(o.evals, g.evals...), append(o.taken, g.taken...)
		default:
			g.named += " (" + g.work + ")"
			out = append(out, g)
		}
	}
	return out
}

// toRows lays the sources of each group over one another: what training
// measured on the way, then evaluations by stage and date.
func toRows(groups []*group) []*Row {
	var rows []*Row
	for _, g := range groups {
		r := newRow(g.named)
		r.Shape = g.shape
		r.Measured = together(g.taken)
		if g.run != nil {
			r.takeRun(g.run)
		}
		slices.SortStableFunc(g.evals, func(a, b *evaluation) int {
			return cmp.Or(cmp.Compare(a.stage(), b.stage()), cmp.Compare(a.date, b.date))
		})
		trained := slices.ContainsFunc(g.evals, func(e *evaluation) bool { return e.stage() == 1 })
		for _, e := range g.evals {
			r.takeEvaluation(e, trained)
		}
		rows = append(rows, r)
	}
	return rows
}

// work is the work folder of the model that was evaluated, or what else tells
// it from others.
func (e *evaluation) work() string {
	if e.model == "" {
		return e.file
	}
	return workFolder(e.model)
}

// stage is 0 for an evaluation of a model right after conversion, 1 for others,
// which are the row's own result.
func (e *evaluation) stage() int {
	if filepath.Base(e.model) == "converted" {
		return 0
	}
	return 1
}

func (r *Row) takeRun(run *Row) {
	if run.Shape != nil {
		r.Shape = run.Shape
	}
	r.Curve = run.Curve
	r.Converted, r.ConvertedTokens = run.Converted, run.ConvertedTokens
	r.Heldout, r.HeldoutTokens = run.Heldout, run.HeldoutTokens
}

// takeEvaluation lays a result over what the row has; evaluations come in the
// order of their stage and date. That of a model right after conversion gives
// the row's accuracies only where there is none of the trained one.
func (r *Row) takeEvaluation(e *evaluation, trained bool) {
	if e.row.Shape != nil {
		r.Shape = e.row.Shape
	}
	if e.stage() == 1 || !trained {
		maps.Copy(r.Accuracy, e.row.Accuracy)
	}
	if !e.row.Heldout.Known() {
		return
	}
	if e.stage() == 0 {
		r.Converted, r.ConvertedTokens = e.row.Heldout, e.row.HeldoutTokens
		return
	}
	r.Heldout, r.HeldoutTokens = e.row.Heldout, e.row.HeldoutTokens
	r.BitsPerByte = e.row.BitsPerByte
}
