package report

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"os"
	"strings"

	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// Names of the pages in their folder.
const (
	pageHTML     = "report.html"
	pageMarkdown = "report.md"
)

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// page is what the template shows.
type page struct {
	Title, Summary string
	Table          template.HTML
	Figures        []pageFigure
	Version        string
}

type pageFigure struct {
	Name, Title, Caption string
	Image                template.URL // of the SVG itself
}

// WritePage writes the table and every figure into dir: as one HTML page that
// needs no other file, and as a Markdown page beside the figures' files. It
// returns the two pages.
func WritePage(ctx context.Context, rows []*Row, tasks []string, dir string, force bool) ([]string, error) {
	table := Table(rows, tasks, "html")
	p := page{Title: "Key/value sharing compared", Summary: summary(rows), Version: provenance.ReadBuild().Version}
	var files []file
	for _, f := range figures(rows, tasks) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		png, svg, err := f.encode()
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", f.name, err)
		}
		files = append(files, file{f.name + ".png", png}, file{f.name + ".svg", svg})
		p.Figures = append(p.Figures, pageFigure{f.name, f.title, f.subtitle, imageURL(svg)})
	}
	var html, markdown, cells bytes.Buffer
	if err := table.HTML(&cells); err != nil {
		return nil, err
	}
	p.Table = template.HTML(cells.String())
	if err := pageTemplate.Execute(&html, p); err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	if err := p.markdown(&markdown, table); err != nil {
		return nil, err
	}
	files = append(files, file{pageMarkdown, markdown.Bytes()}, file{pageHTML, html.Bytes()})
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, ui.Usagef("page: %w", err)
	}
	paths, err := writeFiles(dir, force, files)
	if err != nil {
		return nil, err
	}
	return paths[len(paths)-2:], nil
}

func imageURL(svg []byte) template.URL {
	return template.URL("data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString(svg))
}

// summary says what the page compares.
func summary(rows []*Row) string {
	own, published := 0, 0
	for _, r := range rows {
		if r.Published {
			published++
		} else {
			own++
		}
	}
	text := fmt.Sprintf("%d %s, from the largest key/value cache to the smallest.", own, plural(own, "model"))
	if published > 0 {
		text = fmt.Sprintf("%d %s and %d published, from the largest key/value cache to the smallest.", own, plural(own, "model"), published)
	}
	return text + " Accuracies are in percent, losses in nats a token; the cache is that of one token at 16 bits an element."
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// markdown writes the page with its figures as links to their files.
func (p page) markdown(w *bytes.Buffer, table *ui.Table) error {
	fmt.Fprintf(w, "# %s\n\n%s\n\n", p.Title, p.Summary)
	if err := table.Markdown(w); err != nil {
		return err
	}
	for _, f := range p.Figures {
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n![%s](%s.svg)\n", f.Title, sentence(f.Caption), f.Title, f.Name)
	}
	return nil
}

// sentence makes a sentence of a caption.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
