package ui

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"math"
	"strings"

	"github.com/rivo/uniseg"
)

// Table is rows of cells under named columns, to be written as aligned text,
// Markdown, HTML, CSV or JSON. A cell is a string, a bool, any number, a Cell, a
// fmt.Stringer, or nil where there is no value.
type Table struct {
	columns []string
	rows    [][]any
}

// Cell is a value with the text that stands for it in text, Markdown and HTML
// tables; CSV and JSON hold the value itself.
type Cell struct {
	Value any
	Text  string
}

// Fixed is a number shown with a fixed number of decimals. NaN is no value.
func Fixed(x float64, decimals int) Cell {
	if math.IsNaN(x) {
		return Cell{}
	}
	return Cell{x, fmt.Sprintf("%.*f", decimals, x)}
}

// Integer is a whole number shown in groups of three digits.
func Integer[T ~int | ~int32 | ~int64](n T) Cell { return Cell{int64(n), FormatInt(int64(n))} }

// NewTable makes an empty table.
func NewTable(columns ...string) *Table { return &Table{columns: columns} }

// Row appends a row. Cells that are missing at its end are empty; more cells
// than columns are a programming error.
func (t *Table) Row(cells ...any) {
	if len(cells) > len(t.columns) {
		panic(fmt.Sprintf("ui: row of %d cells in a table of %d columns", len(cells), len(t.columns)))
	}
	row := make([]any, len(t.columns))
	copy(row, cells)
	t.rows = append(t.rows, row)
}

// Len is the number of rows.
func (t *Table) Len() int { return len(t.rows) }

// Format writes the table in a named format: text, markdown, csv or json.
func (t *Table) Format(w io.Writer, format string) error {
	switch format {
	case "text":
		return t.Text(w)
	case "markdown", "md":
		return t.Markdown(w)
	case "csv":
		return t.CSV(w)
	case "json":
		return t.JSON(w)
	}
	return Usagef("format: expected text, markdown, csv or json, found %q", format)
}

// Text writes columns that align, numbers to the right, two spaces apart.
func (t *Table) Text(w io.Writer) error {
	out := bufio.NewWriter(w)
	cells, widths, right := t.layout()
	for _, row := range cells {
		var line strings.Builder
		for i, c := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			line.WriteString(pad(c, widths[i], right[i]))
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
	}
	return out.Flush()
}

// Markdown writes a GitHub-flavoured table that also aligns as plain text.
func (t *Table) Markdown(w io.Writer) error {
	out := bufio.NewWriter(w)
	escape := strings.NewReplacer("|", `\|`, "\n", " ")
	cells, widths, right := t.layout()
	for _, row := range cells {
		for i := range row {
			row[i] = escape.Replace(row[i])
			widths[i] = max(widths[i], 3, uniseg.StringWidth(row[i]))
		}
	}
	for r, row := range cells {
		for i, c := range row {
			fmt.Fprintf(out, "| %s ", pad(c, widths[i], right[i]))
		}
		fmt.Fprintln(out, "|")
		if r > 0 {
			continue
		}
		for i := range row {
			dashes := strings.Repeat("-", widths[i])
			if right[i] {
				dashes = dashes[1:] + ":"
			}
			fmt.Fprintf(out, "| %s ", dashes)
		}
		fmt.Fprintln(out, "|")
	}
	return out.Flush()
}

// HTML writes a table element: cells that are numbers have the class "n", and
// every cell the value that it is sorted by in data-v.
func (t *Table) HTML(w io.Writer) error {
	out := bufio.NewWriter(w)
	cells, _, right := t.layout()
	for r, row := range cells {
		tag := "td"
		switch r {
		case 0:
			tag = "th"
			out.WriteString("<table>\n<thead>\n")
		case 1:
			out.WriteString("<tbody>\n")
		}
		out.WriteString("<tr>")
		for i, c := range row {
			fmt.Fprintf(out, "<%s", tag)
			if right[i] {
				out.WriteString(` class="n"`)
			}
			if r > 0 {
				if v := value(t.rows[r-1][i]); v != nil {
					fmt.Fprintf(out, ` data-v="%s"`, html.EscapeString(fmt.Sprint(v)))
				}
			}
			fmt.Fprintf(out, ">%s</%s>", html.EscapeString(c), tag)
		}
		out.WriteString("</tr>\n")
		if r == 0 {
			out.WriteString("</thead>\n")
		}
	}
	if len(cells) > 1 {
		out.WriteString("</tbody>\n")
	}
	out.WriteString("</table>\n")
	return out.Flush()
}

// CSV writes a header and the rows' values as RFC 4180 has them.
func (t *Table) CSV(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(t.columns); err != nil {
		return err
	}
	for _, row := range t.rows {
		record := make([]string, len(row))
		for i, c := range row {
			if v := value(c); v != nil {
				record[i] = fmt.Sprint(v)
			}
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// JSON writes an array of objects, one a row, whose keys are the columns in
// their order. What is not a number is null.
func (t *Table) JSON(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString("[")
	for r, row := range t.rows {
		if r > 0 {
			b.WriteString(",")
		}
		b.WriteString("\n  {")
		for i, c := range row {
			if i > 0 {
				b.WriteString(", ")
			}
			key, err := json.Marshal(t.columns[i])
			if err != nil {
				return err
			}
			val, err := json.Marshal(value(c))
			if err != nil {
				return fmt.Errorf("column %q, row %d: %w", t.columns[i], r, err)
			}
			b.Write(key)
			b.WriteString(": ")
			b.Write(val)
		}
		b.WriteString("}")
	}
	if len(t.rows) > 0 {
		b.WriteString("\n")
	}
	b.WriteString("]\n")
	_, err := w.Write(b.Bytes())
	return err
}

// layout renders every cell, the header first, with the width of each column
// and whether it holds numbers.
func (t *Table) layout() (cells [][]string, widths []int, right []bool) {
	cells = [][]string{append([]string(nil), t.columns...)}
	widths = make([]int, len(t.columns))
	right = make([]bool, len(t.columns))
	for _, row := range t.rows {
		line := make([]string, len(row))
		for i, c := range row {
			line[i] = text(c)
		}
		cells = append(cells, line)
	}
	for i := range t.columns {
		right[i] = t.numeric(i)
		for _, row := range cells {
			widths[i] = max(widths[i], uniseg.StringWidth(row[i]))
		}
	}
	return cells, widths, right
}

// numeric reports whether a column holds numbers and nothing else.
func (t *Table) numeric(column int) bool {
	found := false
	for _, row := range t.rows {
		switch value(row[column]).(type) {
		case nil:
		case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64:
			found = true
		default:
			return false
		}
	}
	return found
}

// value is what CSV and JSON hold of a cell.
func value(cell any) any {
	switch c := cell.(type) {
	case Cell:
		return value(c.Value)
	case float64:
		if math.IsNaN(c) || math.IsInf(c, 0) {
			return nil
		}
	case float32:
		return value(float64(c))
	case fmt.Stringer:
		return c.String()
	}
	return cell
}

// text is what text and Markdown tables show of a cell.
func text(cell any) string {
	if c, ok := cell.(Cell); ok && c.Value != nil {
		return c.Text
	}
	switch v := value(cell).(type) {
	case nil:
		return "-"
	case float64:
		return fmt.Sprintf("%.4g", v)
	default:
		return fmt.Sprint(v)
	}
}

func pad(s string, width int, right bool) string {
	space := strings.Repeat(" ", max(0, width-uniseg.StringWidth(s)))
	if right {
		return space + s
	}
	return s + space
}
