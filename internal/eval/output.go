package eval

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"mlkv/internal/outdir"
	"mlkv/internal/ui"
)

// output is a folder that results go to, with the log of finished requests.
type output struct {
	dir string // empty: nothing is written
	log *requestLog
}

// checkOutput refuses a folder that holds results, unless they are to be
// replaced.
func checkOutput(dir string, force bool) error {
	if dir == "" {
		return nil
	}
	file := filepath.Join(dir, ResultName)
	switch _, err := os.Stat(file); {
	case err == nil && !force:
		return ui.Usagef("%s: exists; choose another --out or pass --force to replace it", file)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return ui.Usagef("output folder: %w", err)
	}
	return nil
}

// openOutput makes the folder where it does not exist. One that holds results
// is refused unless they are to be replaced.
func openOutput(dir string, force bool) (*output, error) {
	if dir == "" {
		return &output{log: memoryLog()}, nil
	}
	if err := checkOutput(dir, force); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, ui.Usagef("output folder: %w", err)
	}
	log, err := openLog(dir)
	if err != nil {
		return nil, err
	}
	return &output{dir, log}, nil
}

func (o *output) Close() { o.log.Close() }

// write puts the samples and then the results into the folder. The results
// come last, so that their presence says that all is there.
func (o *output) write(res Object, outcome Outcome, samples bool) error {
	if o.dir == "" {
		return nil
	}
	old, err := filepath.Glob(filepath.Join(o.dir, "samples_*.jsonl"))
	if err != nil {
		return err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("output folder: %w", err)
		}
	}
	if samples {
		for _, t := range outcome.Tasks {
			text, err := sampleLog(t)
			if err != nil {
				return err
			}
			if err := outdir.WriteFile(filepath.Join(o.dir, "samples_"+t.Name+".jsonl"), text); err != nil {
				return err
			}
		}
	}
	text, err := pyJSON{Indent: 2}.dump(res)
	if err != nil {
		return err
	}
	if err := outdir.WriteFile(filepath.Join(o.dir, ResultName), append(text, '\n')); err != nil {
		return err
	}
	return o.log.Remove()
}

// printer shows the figures of models as they come.
type printer struct {
	Options
	out     io.Writer
	other   Scores // nil: nothing to compare with
	results []any  // with JSON, of several models
}

func (p *printer) print(name string, o Outcome, res Object) error {
	var diffs []Difference
	if p.other != nil {
		diffs = Compare(o.scores(), p.other)
	}
	if p.JSON {
		if p.other != nil {
			res = append(res, Field{"comparison", Object{{"file", p.Compare}, {"figures", compareSection(diffs)}}})
		}
		p.results = append(p.results, res)
		return nil
	}
	if len(p.Models) > 1 {
		fmt.Fprintf(p.out, "%s\n\n", name)
	}
	if err := o.table().Markdown(p.out); err != nil {
		return err
	}
	if o.Heldout != nil {
		fmt.Fprintln(p.out)
		if err := o.Heldout.bucketTable().Markdown(p.out); err != nil {
			return err
		}
	}
	if p.other != nil {
		fmt.Fprintln(p.out)
		if err := compareTable(diffs, filepath.Base(p.Compare)).Markdown(p.out); err != nil {
			return err
		}
	}
	if len(p.Models) > 1 {
		fmt.Fprintln(p.out)
	}
	return nil
}

// end prints what was gathered for JSON: one object, or a list for several
// models.
func (p *printer) end() error {
	if !p.JSON {
		return nil
	}
	var v any = p.results
	if len(p.results) == 1 {
		v = p.results[0]
	}
	text, err := pyJSON{Indent: 2}.dump(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", text)
	return err
}
