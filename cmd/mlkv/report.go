package main

import (
	"github.com/spf13/cobra"

	"mlkv/internal/report"
)

func newReportCmd(a *app) *cobra.Command {
	var o report.Options
	cmd := &cobra.Command{
		Use:   "report PATH...",
		Short: "Compare models in one table and in plots",
		Long: `report reads result files in the format of lm-evaluation-harness, run folders of
uptrain, converted checkpoints, what measure found, and folders of any of these.
Rows are sorted from the largest key/value cache to the smallest. Accuracies are
in percent, the held-out loss is in nats a token.

--page writes report.html, which needs no other file, and report.md with the
plots as PNG and SVG beside it.`,
		Example: `  mlkv report runs/
  mlkv report runs/ --page runs/report
  mlkv report runs/ --plots runs/plots --format markdown --out runs/report.md
  mlkv report runs/mlkv-6 --published results/authors/`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Paths = args
			return report.Run(cmd.Context(), o, a.Streams)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Format, "format", "text", "text, markdown, csv or json")
	f.StringVarP(&o.Out, "out", "o", "", "write the table to a `file`")
	f.StringVar(&o.Plots, "plots", "", "write plots as PNG and SVG into a `folder`")
	f.StringVar(&o.Page, "page", "", "write a page in HTML and Markdown, with plots, into a `folder`")
	f.StringSliceVar(&o.Published, "published", nil, "result `files` or folders to lay beside as a second series")
	f.StringSliceVar(&o.Tasks, "tasks", report.PaperTasks, "`tasks` that the average is taken of")
	f.BoolVar(&o.Force, "force", false, "overwrite files")
	return cmd
}
