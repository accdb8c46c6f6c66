// Package report compares models: it reads run folders, converted checkpoints
// and result files in the format of lm-evaluation-harness, lays them out as one
// table, and plots what the smaller key/value cache costs.
package report

import (
	"context"
	"fmt"
	"io"
	"strings"

	"mlkv/internal/outdir"
	"mlkv/internal/ui"
)

// Options of a report.
type Options struct {
	Paths     []string // result files, run folders, or folders of them
	Published []string // the same, laid beside as a second series
	// Tasks make up the average; the paper's four where empty.
	Tasks  []string
	Format string // text, markdown, csv, json
	Out    string // file for the table; empty: standard output
	Plots  string // folder for plots; empty: none
	Page   string // folder for a page in HTML and Markdown, with plots; empty: none
	Force  bool   // overwrite files
}

// PaperTasks are the tasks whose mean accuracy the MLKV paper compares.
var PaperTasks = []string{"arc_easy", "lambada_openai", "piqa", "sciq"}

// Run writes the table and the plots. Errors are of kind ui.Usagef for options
// and ui.Inputf for files that cannot be read.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	if len(o.Paths)+len(o.Published) == 0 {
		return ui.Usagef("report: expected result files or run folders, found none")
	}
	if len(o.Tasks) == 0 {
		o.Tasks = PaperTasks
	}
	rows, err := Collect(o.Paths, o.Published)
	if err != nil {
		return err
	}
	for _, w := range unequalHeldout(rows) {
		fmt.Fprintln(s.Err, "warning:", w)
	}
	var table strings.Builder
	if err := Table(rows, o.Tasks, o.Format).Format(&table, o.Format); err != nil {
		return err
	}
	if err := writeTable(o, s, table.String()); err != nil {
		return err
	}
	if o.Plots != "" {
		files, err := Plot(ctx, rows, o.Tasks, o.Plots, o.Force)
		for _, f := range files {
			fmt.Fprintln(s.Err, "plot:", f)
		}
		if err != nil {
			return err
		}
	}
	if o.Page == "" {
		return nil
	}
	files, err := WritePage(ctx, rows, o.Tasks, o.Page, o.Force)
	if err == nil {
		fmt.Fprintln(s.Err, "page:", strings.Join(files, ", "))
	}
	return err
}

func writeTable(o Options, s ui.Streams, table string) error {
	if o.Out == "" {
		_, err := io.WriteString(s.Out, table)
		return err
	}
	if err := free(o.Out, o.Force); err != nil {
		return err
	}
	return outdir.WriteFile(o.Out, []byte(table))
}
