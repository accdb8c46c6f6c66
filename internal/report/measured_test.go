package report

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"gonum.org/v1/plot"

	"mlkv/internal/ui"
)

// TestMeasured: measurements join the rows of their names, and their figures
// stand in the table.
func TestMeasured(t *testing.T) {
	dir := t.TempDir()
	older, newer := measurements("2026-01-01T00:00:00Z"), measurements("2026-01-02T00:00:00Z")
	for _, m := range older["models"].([]object) {
		points := m["points"].([]object)
		points[0]["batch_size"] = 3 // one more batch
		points[3]["batch_size"] = 2 // another answer
	}
	a := put(t, dir, "a/measurements.json", newer)
	b := put(t, dir, "b/measurements.json", older)
	rows := collect(t, writeFixture(t), a, b)
	if got := names(rows); got != "MHA-16, MLKV-8, MQA-4, MLKV-2" {
		t.Fatalf("rows %s", got)
	}
	for i, r := range rows {
		want := fixture[i]
		if len(r.Measured) != 1 || r.Measured[0].Device != "a GPU" || r.Heldout.Value != want.uptrain {
			t.Fatalf("%s: %+v", r.Name, r.Measured)
		}
		largest := r.Measured[0].largest(64)
		if largest == nil || largest.Batch != 1<<20/want.bytes() || largest.Memory != int64(4000+64*largest.Batch*want.bytes()) {
			t.Errorf("%s: largest batch %+v; the newest measurement counts, without its background", r.Name, largest)
		}
		line := r.Measured[0].line(64)
		for j, p := range line {
			if p.OutOfMemory || j > 0 && p.Batch <= line[j-1].Batch {
				t.Errorf("%s: line %+v", r.Name, line)
			}
		}
		if len(r.Measured[0].Points) != 6 || line[1].Batch != 3 {
			t.Errorf("%s: %d points from two files, want 6; line %+v", r.Name, len(r.Measured[0].Points), line)
		}
	}
	var out strings.Builder
	if err := Table(rows, PaperTasks, "csv").CSV(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "largest_batch,tokens_per_second,longest_context\n") || !strings.Contains(out.String(), ",1024,12345,65536\n") {
		t.Errorf("table:\n%s", &out)
	}

	// The folder alone is enough.
	if rows := collect(t, dir); names(rows) != "MHA-16, MLKV-8, MQA-4, MLKV-2" || rows[0].Shape.KVBytes != fixture[0].bytes() {
		t.Errorf("measurements alone: %s", names(rows))
	}
}

// TestMeasuredBits: a measurement of another element size is a line of its own.
func TestMeasuredBits(t *testing.T) {
	dir := t.TempDir()
	bits8 := measurements("2026-01-01T00:00:00Z")
	for _, m := range bits8["models"].([]object) {
		m["cache_bits"], m["kv_bytes_per_token"] = 8, m["kv_bytes_per_token"].(int)/2
	}
	rows := collect(t, put(t, dir, "a.json", measurements("2026-01-02T00:00:00Z")), put(t, dir, "b.json", bits8))
	r := rows[3]
	if len(r.Measured) != 2 || measuredName(r, 0) != "MLKV-2, 16-bit" || measuredName(r, 1) != "MLKV-2, 8-bit" || r.Shape.KVBytes != fixture[3].bytes() {
		t.Errorf("%+v, shape %+v", r.Measured, r.Shape)
	}
	if s := newSweep(rows, 64, func(p MeasuredPoint) float64 { return p.TokensPerSecond }); len(s.lines) != 8 || len(s.legend()) != 8 {
		t.Errorf("%d lines", len(s.lines))
	}
}

const authorsCSV = `model_name,batch_size,sequence_length,background_memory_usage,model_memory_usage,memory_usage,kv_cache_mem,inference_time,inference_speed,is_oom
../pythia-160m-deduped,8,48,368,831,1762.0,1151.4375,8.163371086120605,46.059403159961285,False
../pythia-160m-deduped,16,48,368,831,inf,0,inf,0,True
faridlazuarda/pythia-160m-mlkv-6-b12-g2-v1,8,48,225,835,93.5,48,7.9,47.5,False
`

// TestMeasuredCSV reads the form of the authors' own file.
func TestMeasuredCSV(t *testing.T) {
	rows := collect(t, put(t, t.TempDir(), "measurements.csv", authorsCSV))
	if got := names(rows); got != "pythia-160m-deduped, MLKV-6" {
		t.Fatalf("rows %s", got)
	}
	p := rows[0].Measured[0].Points
	if len(p) != 2 || p[0].Memory != (831+1762)<<20 || p[0].Length != 2048 || p[0].Batch != 8 || math.Abs(p[0].TokensPerSecond-46.0594) > 1e-4 || !p[1].OutOfMemory {
		t.Errorf("points %+v", p)
	}
	if rows[1].Shape.KVBytes != 1536 || len(rows[1].Measured[0].line(2048)) != 1 {
		t.Errorf("row %+v", rows[1])
	}
}

func TestMeasuredRefusals(t *testing.T) {
	dir := t.TempDir()
	noPoints := measurements("2026-01-01T00:00:00Z")
	noPoints["models"].([]object)[1]["points"] = []object{}
	text := measurements("2026-01-01T00:00:00Z")
	text["models"] = "none"
	for name, c := range map[string]struct {
		content any
		want    string
	}{
		"points.json":          {noPoints, `points.json: model "MLKV-8": expected cache_bits, kv_bytes_per_token and points`},
		"text.json":            {text, "text.json: expected measurements of mlkv measure"},
		"x/measurements.json":  {text, "expected measurements of mlkv measure"},
		"columns.csv":          {strings.Replace(authorsCSV, "is_oom", "oom", 1), "columns.csv: expected a column is_oom"},
		"number.csv":           {strings.Replace(authorsCSV, ",48,368", ",many,368", 1), `number.csv:2: sequence_length: expected a number, found "many"`},
		"batch.csv":            {strings.Replace(authorsCSV, "deduped,8,", "deduped,0,", 1), "batch.csv:2: batch_size: expected 1 or more, found 0"},
		"empty.csv":            {"", "empty.csv: expected measurements, found none"},
		"ragged.csv":           {"a,b\n1\n", "ragged.csv: expected comma-separated measurements"},
		"future/measured.json": {object{"format": "mlkv measurements 2"}, "found none"},
	} {
		path := put(t, dir, name, c.content)
		if _, err := Collect([]string{path}, nil); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// TestDistilledCurve: where a run's loss is another objective, its cross-entropy
// is plotted.
func TestDistilledCurve(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "uptrain/metrics.jsonl", `{"step":1,"loss":9,"ce":3,"kl":4}`+"\n"+`{"step":2,"loss":2.5}`+"\n")
	rows := collect(t, dir)
	if c := rows[0].Curve; len(c) != 2 || c[0].Loss != 3 || c[1].Loss != 2.5 {
		t.Errorf("curve %+v", c)
	}
}

func TestDecadeTicks(t *testing.T) {
	for _, c := range []struct {
		low, high float64
		want      string
	}{
		{7, 150, "10,20,50,100"}, {7, 150000, "10,100,1k,10k,100k"}, {900, 5100, "1k,2k,5k"}, {0.04, 0.6, "0.05,0.1,0.2,0.5"},
	} {
		var got []string
		for _, tick := range (decadeTicks{tokenRate}).Ticks(c.low, c.high) {
			if tick.Label != "" {
				got = append(got, tick.Label)
			}
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("%g to %g: %v, want %s", c.low, c.high, got, c.want)
		}
	}
}

// FuzzMeasured: whatever a file holds, it is refused or gives figures whose axes
// can be drawn.
func FuzzMeasured(f *testing.F) {
	text, err := json.Marshal(measurements("2026-01-01T00:00:00Z"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(authorsCSV))
	f.Add([]byte(strings.Replace(authorsCSV, "46.05", "1e308", 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := parseMeasured("x.json", data)
		if err == nil && rows == nil {
			rows, err = parseMeasuredCSV("x.csv", data)
		}
		if err != nil {
			if ui.ExitCode(err) != ui.ExitInput {
				t.Errorf("%v", err)
			}
			return
		}
		s := sources{measured: rows}
		for _, fig := range figures(s.rows(), PaperTasks) {
			for _, a := range []plot.Axis{fig.X, fig.Y} {
				if !(a.Min < a.Max) || !known(a.Min) || !known(a.Max) || len(a.Tick.Marker.Ticks(a.Min, a.Max)) > 1000 {
					t.Errorf("%s: an axis from %g to %g", fig.name, a.Min, a.Max)
				}
			}
		}
	})
}
