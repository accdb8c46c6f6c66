package report

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	ximage "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"mlkv/internal/outdir"
	"mlkv/internal/ui"
)

// Colours and measures of all figures.
var (
	ink    = color.RGBA{0x22, 0x22, 0x22, 0xff} // text
	soft   = color.RGBA{0x70, 0x70, 0x70, 0xff} // axes, second series
	faint  = color.RGBA{0xe2, 0xe2, 0xe2, 0xff} // grid
	accent = color.RGBA{0x00, 0x5a, 0xa8, 0xff} // first series
	warm   = color.RGBA{0xd0, 0x5a, 0x1e, 0xff} // what came before
)

const (
	figureWidth  = 7.5 * vg.Inch
	figureHeight = 4.8 * vg.Inch
	margin       = 0.16 * vg.Inch
	pngDPI       = 160
)

// figure is a plot with a headline, and room at its right for labels of lines.
type figure struct {
	name            string // of the files, without extension
	title, subtitle string
	right           vg.Length
	height          vg.Length
	*plot.Plot
}

// newFigure makes an empty figure without lines at its top and right.
func newFigure(name, title, subtitle, x, y string) *figure {
	f := &figure{name: name, title: title, subtitle: subtitle, height: figureHeight, Plot: plot.New()}
	f.X.Label.Text, f.Y.Label.Text = x, y
	for _, a := range []*plot.Axis{&f.X, &f.Y} {
		a.Label.TextStyle.Font = sans(11, false)
		a.Label.TextStyle.Color = ink
		a.Label.Padding = vg.Points(5)
		a.Tick.Label.Font = sans(10, false)
		a.Tick.Label.Color = ink
		a.LineStyle.Color, a.Tick.LineStyle.Color = soft, soft
		a.Tick.Length = vg.Points(4)
		a.Padding = 0
	}
	return f
}

func sans(points float64, bold bool) font.Font {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(points)}
	if bold {
		f.Weight = ximage.WeightBold
	}
	return f
}

// style is text of a size and colour, aligned at a point.
func style(points float64, c color.Color, x text.XAlignment, y text.YAlignment) text.Style {
	return text.Style{Font: sans(points, false), Color: c, XAlign: x, YAlign: y, Handler: plot.DefaultTextHandler}
}

// draw lays the figure out on a canvas: headline, then the plot.
func (f *figure) draw(c draw.Canvas) {
	c.SetColor(color.White)
	c.Fill(c.Rectangle.Path())
	c = draw.Crop(c, margin, -margin, margin, -margin)
	title := style(13, ink, draw.XLeft, draw.YTop)
	title.Font = sans(13, true)
	c.FillText(title, vg.Point{X: c.Min.X, Y: c.Max.Y}, f.title)
	c.Max.Y -= vg.Points(18)
	small := style(10, soft, draw.XLeft, draw.YTop)
	for _, line := range wrap(small, f.subtitle, c.Max.X-c.Min.X) {
		c.FillText(small, vg.Point{X: c.Min.X, Y: c.Max.Y}, line)
		c.Max.Y -= vg.Points(13)
	}
	c.Max.Y -= vg.Points(11)
	c.Max.X -= f.right
	f.BackgroundColor = nil
	f.Plot.Draw(c)
}

// wrap breaks text into lines of at most a width, between words.
func wrap(sty text.Style, s string, width vg.Length) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		longer := strings.TrimSpace(line + " " + word)
		if line != "" && sty.Width(longer) > width {
			lines = append(lines, line)
			longer = word
		}
		line = longer
	}
	return append(lines, line)
}

// Dots of plots.
const dotRadius = 4

func fullDot(c draw.Canvas, at vg.Point, col color.Color) {
	c.DrawGlyphNoClip(draw.GlyphStyle{Color: col, Radius: dotRadius, Shape: draw.CircleGlyph{}}, at)
}

func openDot(c draw.Canvas, at vg.Point, col color.Color) {
	fullDot(c, at, col)
	c.DrawGlyphNoClip(draw.GlyphStyle{Color: color.White, Radius: dotRadius - 1.3, Shape: draw.CircleGlyph{}}, at)
}

// encode renders the figure as PNG and as SVG.
func (f *figure) encode() (png, svg []byte, err error) {
	img := vgimg.NewWith(vgimg.UseWH(figureWidth, f.height), vgimg.UseDPI(pngDPI))
	f.draw(draw.New(img))
	var b bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(&b); err != nil {
		return nil, nil, err
	}
	vec := vgsvg.NewWith(vgsvg.UseWH(figureWidth, f.height))
	f.draw(draw.New(vec))
	var s bytes.Buffer
	if _, err := vec.WriteTo(&s); err != nil {
		return nil, nil, err
	}
	return b.Bytes(), keepWidths(s.Bytes()), nil
}

// svgText is a text element as vgsvg writes it.
var svgText = regexp.MustCompile(`<text ([^>]*font-weight:(bold|normal);[^>]*font-size:([\d.]+)px[^>]*)>([^<]*)</text>`)

// keepWidths makes viewers without Liberation take Arial or Helvetica, which have
// the same widths, and squeeze any other font to them, so that texts stay where
// there is room for them.
func keepWidths(svg []byte) []byte {
	svg = bytes.ReplaceAll(svg, []byte("font-family:Liberation Sans;"),
		[]byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;"))
	return svgText.ReplaceAllFunc(svg, func(element []byte) []byte {
		m := svgText.FindSubmatch(element)
		size, err := strconv.ParseFloat(string(m[3]), 64)
		if err != nil {
			return element
		}
		sty := style(size, ink, draw.XLeft, draw.YTop)
		sty.Font = sans(size, string(m[2]) == "bold")
		width := sty.Width(html.UnescapeString(string(m[4])))
		return fmt.Appendf(nil, `<text textLength="%.5g" lengthAdjust="spacingAndGlyphs" %s>%s</text>`, width.Points(), m[1], m[4])
	})
}

// write renders the figure into dir and returns the files.
func (f *figure) write(dir string, force bool) ([]string, error) {
	png, svg, err := f.encode()
	if err != nil {
		return nil, fmt.Errorf("plot %s: %w", f.name, err)
	}
	return writeFiles(dir, force, []file{{f.name + ".png", png}, {f.name + ".svg", svg}})
}

// file is an output with its name in a folder.
type file struct {
	name string
	data []byte
}

// writeFiles writes files into a folder and returns their paths.
func writeFiles(dir string, force bool, files []file) ([]string, error) {
	var paths []string
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if err := free(path, force); err != nil {
			return paths, err
		}
		if err := outdir.WriteFile(path, f.data); err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// free refuses an output file that exists, unless it may be overwritten.
func free(path string, force bool) error {
	if _, err := os.Stat(path); err == nil && !force {
		return ui.Usagef("%s: exists already; choose another name, or pass --force to overwrite it", path)
	}
	return nil
}
