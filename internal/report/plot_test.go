package report

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"image"
	"image/color"
	_ "image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/plot/vg"

	"mlkv/internal/ui"
)

func TestPlotWritesEveryFigure(t *testing.T) {
	rows := collect(t, writeFixture(t), put(t, t.TempDir(), "measurements.json", measurements("2026-01-02T00:00:00Z")))
	dir := filepath.Join(t.TempDir(), "new", "plots")
	files, err := Plot(context.Background(), rows, PaperTasks, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, filepath.Base(f))
	}
	want := []string{"score.png", "score.svg", "heldout.png", "heldout.svg", "recovery.png", "recovery.svg",
		"training.png", "training.svg", "heldout-curve.png", "heldout-curve.svg",
		"largest-batch.png", "largest-batch.svg", "memory.png", "memory.svg", "throughput.png", "throughput.svg"}
	if !slices.Equal(got, want) {
		t.Errorf("wrote %v, want %v", got, want)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(f) == ".png" {
			checkPNG(t, f, data)
			continue
		}
		texts := svgTexts(t, f, data)
		for _, r := range rows {
			if !slices.ContainsFunc(texts, func(s string) bool { return s == r.Name || strings.HasPrefix(s, r.Name+" (") }) {
				t.Errorf("%s does not name %s; its texts are %q", f, r.Name, texts)
			}
		}
	}

	// Once more, the first figure only.
	for _, r := range rows {
		r.Curve, r.Heldout, r.Converted = nil, unknown, unknown
	}
	if _, err := Plot(context.Background(), rows, PaperTasks, dir, false); ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("overwriting without force: got %v", err)
	}
	before, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Plot(context.Background(), rows, PaperTasks, dir, true); err != nil {
		t.Error(err)
	}
	if after, _ := os.ReadFile(files[0]); !bytes.Equal(before, after) {
		t.Errorf("%s differs when drawn again", files[0])
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Plot(ctx, rows, PaperTasks, t.TempDir(), false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

// checkPNG requires the size of a figure, a white border and enough ink.
func checkPNG(t *testing.T, file string, data []byte) {
	t.Helper()
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	b := img.Bounds()
	if b.Dx() != 1200 || b.Dy() < 300 {
		t.Errorf("%s: %d x %d pixels, want a width of 1200", file, b.Dx(), b.Dy())
	}
	inked := 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			if color.GrayModel.Convert(img.At(x, y)).(color.Gray).Y > 200 {
				continue
			}
			inked++
			if x < 10 || y < 10 || x >= b.Max.X-10 || y >= b.Max.Y-10 {
				t.Fatalf("%s: something is drawn into the border at %d, %d", file, x, y)
			}
		}
	}
	if share := float64(inked) / float64(b.Dx()*b.Dy()); share < 0.005 || share > 0.3 {
		t.Errorf("%s: %.1f%% of the pixels are inked", file, 100*share)
	}
}

// svgTexts parses a whole SVG and lists its texts.
func svgTexts(t *testing.T, file string, data []byte) []string {
	t.Helper()
	var texts []string
	dec := xml.NewDecoder(bytes.NewReader(data))
	inText := false
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			inText = tok.Name.Local == "text"
		case xml.EndElement:
			inText = false
		case xml.CharData:
			if inText {
				texts = append(texts, string(tok))
			}
		}
	}
}

func TestPlotNeedsFigures(t *testing.T) {
	r := newRow("x")
	r.Accuracy["piqa"] = Estimate{0.5, 0.1}
	dir := filepath.Join(t.TempDir(), "plots")
	if _, err := Plot(context.Background(), []*Row{r}, PaperTasks, dir, false); ui.ExitCode(err) != ui.ExitInput {
		t.Errorf("got %v, want an input error", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder was left behind")
	}
}

func TestFrontier(t *testing.T) {
	s := &scatter{higher: true, dots: []dot{
		{name: "a", x: 8, y: 5}, {name: "b", x: 4, y: 4}, {name: "c", x: 4, y: 3}, {name: "d", x: 2, y: 4.5},
		{name: "e", x: 1, y: 1}, {name: "f", x: 1, y: 9, published: true},
	}}
	line := func() string {
		var out string
		for _, i := range s.frontier(false) {
			out += s.dots[i].name
		}
		return out
	}
	if got := line(); got != "eda" {
		t.Errorf("higher is better: frontier %s, want eda", got)
	}
	s.higher = false
	if got := line(); got != "e" {
		t.Errorf("lower is better: frontier %s, want e", got)
	}
}

func TestSpreadOut(t *testing.T) {
	for _, at := range [][]vg.Length{{}, {3}, {0, 0, 0}, {5, 1, 2, 40, 41, 100}, {10, 9, 8, 7}} {
		got := spreadOut(at, 10)
		for i := range at {
			for j := range at {
				if at[i] < at[j] && got[j]-got[i] < 10-1e-9 || i != j && math.Abs(float64(got[i]-got[j])) < 10-1e-9 {
					t.Errorf("%v became %v: %d and %d are too near or out of order", at, got, i, j)
				}
			}
		}
		sum := vg.Length(0)
		for i := range at {
			sum += got[i] - at[i]
		}
		if math.Abs(float64(sum)) > 1e-6 {
			t.Errorf("%v became %v, which lies %g off its middle", at, got, sum)
		}
	}
	if got := spreadOut([]vg.Length{0, 50}, 10); got[0] != 0 || got[1] != 50 {
		t.Errorf("positions with room moved to %v", got)
	}
}

func TestLabelsKeepApart(t *testing.T) {
	l := labeller{bounds: vg.Rectangle{Max: vg.Point{X: 300, Y: 200}}}
	var labels []label
	for _, p := range []vg.Point{{X: 100, Y: 100}, {X: 104, Y: 96}, {X: 100, Y: 120}, {X: 290, Y: 100}, {X: 5, Y: 195}} {
		l.points = append(l.points, p)
		l.block(around(p, 4, 4))
		labels = append(labels, label{p, 7, 50, 10})
	}
	placed := l.place(labels)
	for i, r := range placed {
		if overlap(r, l.bounds) < 499 {
			t.Errorf("label %d lies out of bounds at %v", i, r)
		}
		for j := range i {
			if overlap(r, placed[j]) > 0 {
				t.Errorf("labels %d and %d overlap: %v, %v", j, i, placed[j], r)
			}
		}
		for _, b := range l.taken {
			if overlap(r, b) > 0 {
				t.Errorf("label %d at %v covers a dot at %v", i, r, b)
			}
		}
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		low, high float64
		want      string
	}{
		{200, 70000, "256 B,512 B,1 KiB,2 KiB,4 KiB,8 KiB,16 KiB,32 KiB,64 KiB"},
		{1000, 1 << 21, "1 KiB,4 KiB,16 KiB,64 KiB,256 KiB,1 MiB"},
	} {
		var got []string
		for _, tick := range (byteTicks{}).Ticks(c.low, c.high) {
			if tick.Label != "" {
				got = append(got, tick.Label)
			}
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("bytes %g to %g: %v, want %s", c.low, c.high, got, c.want)
		}
	}
	for _, c := range []struct {
		low, high float64
		want      string
	}{
		{39.4, 54.2, "40,42,44,46,48,50,52,54"}, {3.27, 4.2, "3.4,3.6,3.8,4.0,4.2"}, {0, 400, "0,100,200,300,400"}, {1, 1, ""},
		{0, 0.035, "0.000,0.005,0.010,0.015,0.020,0.025,0.030,0.035"},
	} {
		var got []string
		for _, tick := range (roundTicks{}).Ticks(c.low, c.high) {
			got = append(got, tick.Label)
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("%g to %g: %v, want %s", c.low, c.high, got, c.want)
		}
	}
}

func TestSmooth(t *testing.T) {
	c := &curves{lines: []curve{{xs: make([]float64, 1000), ys: make([]float64, 1000)}}}
	for i := range c.lines[0].xs {
		c.lines[0].xs[i], c.lines[0].ys[i] = float64(10*i), 3+float64(i%2)
	}
	if got := c.smooth(); got != 330 {
		t.Errorf("width %d, want 33 points of 10 steps", got)
	}
	last := c.lines[0].ys[999]
	if math.Abs(last-3.5) > 0.03 || c.lines[0].ys[0] != 3 {
		t.Errorf("smoothed from %g to %g, want from 3 to 3.5", c.lines[0].ys[0], last)
	}
}
