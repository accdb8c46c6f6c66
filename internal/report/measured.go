package report

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"mlkv/internal/ui"
)

// Measurement is what was measured of a model on one device.
type Measurement struct {
	Device    string // as for example "NVIDIA H100 80GB HBM3"
	Capacity  int64  // memory of the device in bytes; 0 where not known
	Limited   bool   // Capacity is what was allowed, less than the device has
	CacheBits int    // of a cached element
	Points    []MeasuredPoint
	finished  time.Time
}

// MeasuredPoint is memory and speed of decoding one batch.
type MeasuredPoint struct {
	Kind            string // batch, largest batch, longest context
	Batch, Length   int
	OutOfMemory     bool
	Memory          int64 // of the model and its cache in bytes, without what else was in use
	KV              int64 // of the cache
	TokensPerSecond float64
}

// Kinds of points, as package measure has them.
const (
	kindBatch   = "batch"
	kindLargest = "largest batch"
	kindContext = "longest context"
)

// measuredRow is a measurement as a source of a row.
type measuredRow struct {
	name, work string
	shape      *Shape
	Measurement
}

// measuredFile is what is used of a file of mlkv measure.
type measuredFile struct {
	Format string `json:"format"`
	Device struct {
		Device string `json:"device"`
		Name   string `json:"name"`
		Memory int64  `json:"memory"`
		Limit  int64  `json:"limit"`
	} `json:"device"`
	Models []struct {
		Name          string `json:"name"`
		Path          string `json:"path"`
		KVLayers      int    `json:"kv_layers"`
		ValueKVLayers int    `json:"value_kv_layers"`
		KVHeads       int    `json:"kv_heads"`
		Parameters    int    `json:"parameters"`
		CacheBits     int    `json:"cache_bits"`
		KVBytes       int    `json:"kv_bytes_per_token"`
		Background    int64  `json:"background_memory"`
		Points        []struct {
			Kind            string  `json:"kind"`
			Batch           int     `json:"batch_size"`
			Length          int     `json:"length"`
			OutOfMemory     bool    `json:"is_oom"`
			Memory          int64   `json:"memory"`
			KV              int64   `json:"kv_allocated"`
			TokensPerSecond float64 `json:"tokens_per_second"`
		} `json:"points"`
	} `json:"models"`
	Provenance struct {
		Finished time.Time `json:"finished"`
	} `json:"provenance"`
}

const measuredFormat = "mlkv measurements 1"

// parseMeasured reads a file of mlkv measure. It returns nothing, without an
// error, where the file is JSON of another kind.
func parseMeasured(path string, data []byte) ([]measuredRow, error) {
	var top struct {
		Format any `json:"format"`
	}
	if err := json.Unmarshal(data, &top); err != nil || top.Format != measuredFormat {
		return nil, nil
	}
	var f measuredFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, ui.Inputf("%s: expected measurements of mlkv measure: %w", path, err)
	}
	var rows []measuredRow
	for _, m := range f.Models {
		if m.CacheBits < 1 || m.KVBytes*16/m.CacheBits < 1 || len(m.Points) == 0 {
			return nil, ui.Inputf("%s: model %q: expected cache_bits, kv_bytes_per_token and points, found %d, %d and %d points",
				path, m.Name, m.CacheBits, m.KVBytes, len(m.Points))
		}
		r := measuredRow{name: m.Name, work: path + "/" + m.Name, Measurement: Measurement{
			Device: f.Device.Name, Capacity: f.Device.Memory, CacheBits: m.CacheBits, finished: f.Provenance.Finished,
		}}
		if m.Path != "" {
			r.work = workFolder(m.Path)
		}
		if f.Device.Limit > 0 {
			r.Capacity, r.Limited = f.Device.Limit, true
		}
		r.shape = &Shape{
			Owners: m.KVLayers, ValueOwners: m.ValueKVLayers, KVHeads: m.KVHeads,
			Parameters: m.Parameters, KVBytes: m.KVBytes * 16 / m.CacheBits,
		}
		for _, p := range m.Points {
			if p.Batch < 1 && !p.OutOfMemory {
				return nil, ui.Inputf("%s: model %q: batch_size: expected 1 or more, found %d", path, m.Name, p.Batch)
			}
			r.Points = append(r.Points, MeasuredPoint{p.Kind, p.Batch, p.Length, p.OutOfMemory, p.Memory - m.Background, p.KV, p.TokensPerSecond})
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// parseMeasuredCSV reads the columns of the MLKV authors' measurements.csv. Their
// sequence_length counts what is decoded after 2,000 tokens; memory is in MiB.
func parseMeasuredCSV(path string, data []byte) ([]measuredRow, error) {
	records, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		return nil, ui.Inputf("%s: expected comma-separated measurements: %w", path, err)
	}
	t := csvTable{path: path}
	if len(records) > 0 {
		t.columns = records[0]
	}
	var rows []measuredRow
	for i, record := range records[min(1, len(records)):] {
		t.line, t.record = i+2, record
		name := t.text("model_name")
		p := MeasuredPoint{
			Kind: kindBatch, Batch: int(t.number("batch_size")), Length: 2000 + int(t.number("sequence_length")),
			OutOfMemory: t.text("is_oom") == "True", KV: t.mib("kv_cache_mem"), TokensPerSecond: t.number("inference_speed"),
		}
		p.Memory = t.mib("model_memory_usage") + t.mib("memory_usage")
		if t.err == nil && p.Batch < 1 {
			t.err = ui.Inputf("%s:%d: batch_size: expected 1 or more, found %d", path, t.line, p.Batch)
		}
		if t.err != nil {
			return nil, t.err
		}
		at := slices.IndexFunc(rows, func(r measuredRow) bool { return r.work == workFolder(name) })
		if at < 0 {
			at = len(rows)
			rows = append(rows, measuredRow{
				name: cmp.Or(publishedName(name), folderName(name)), work: workFolder(name), shape: publishedShape(name),
				Measurement: Measurement{CacheBits: 32},
			})
		}
		rows[at].Points = append(rows[at].Points, p)
	}
	if len(rows) == 0 {
		return nil, ui.Inputf("%s: expected measurements, found none", path)
	}
	return rows, nil
}

// csvTable reads cells by the names of their columns and keeps the first error.
type csvTable struct {
	path    string
	columns []string
	line    int
	record  []string
	err     error
}

func (t *csvTable) text(column string) string {
	i := slices.Index(t.columns, column)
	if i < 0 {
		t.err = cmp.Or(t.err, ui.Inputf("%s: expected a column %s, found %q", t.path, column, t.columns))
		return ""
	}
	return t.record[i]
}

func (t *csvTable) number(column string) float64 {
	text := t.text(column)
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.err = cmp.Or(t.err, ui.Inputf("%s:%d: %s: expected a number, found %q", t.path, t.line, column, text))
	}
	return x
}

func (t *csvTable) mib(column string) int64 { return int64(t.number(column) * (1 << 20)) }

// together puts the measurements of each device and size of an element into one:
// of equal points the newest counts.
func together(all []Measurement) []Measurement {
	slices.SortStableFunc(all, func(a, b Measurement) int { return b.finished.Compare(a.finished) })
	var out []Measurement
	for _, m := range all {
		i := slices.IndexFunc(out, func(o Measurement) bool { return o.Device == m.Device && o.CacheBits == m.CacheBits })
		if i < 0 {
			out = append(out, m)
			continue
		}
		o := &out[i]
		o.Points = append(o.Points, slices.DeleteFunc(slices.Clone(m.Points), func(p MeasuredPoint) bool {
			return slices.ContainsFunc(o.Points, p.replaces)
		})...)
	}
	slices.SortStableFunc(out, func(a, b Measurement) int {
		return cmp.Or(cmp.Compare(b.Capacity, a.Capacity), cmp.Compare(b.CacheBits, a.CacheBits))
	})
	return out
}

// replaces reports whether two points answer the same question.
func (p MeasuredPoint) replaces(o MeasuredPoint) bool {
	return p.Kind == o.Kind && (p.Batch == o.Batch || p.Kind == kindLargest) && (p.Length == o.Length || p.Kind == kindContext)
}

// largest is the largest batch of a length, nil where it was not searched or
// none fits.
func (m Measurement) largest(length int) *MeasuredPoint {
	return m.find(func(p MeasuredPoint) bool { return p.Kind == kindLargest && p.Length == length })
}

// context is the longest context of a batch.
func (m Measurement) context(batch int) *MeasuredPoint {
	return m.find(func(p MeasuredPoint) bool { return p.Kind == kindContext && p.Batch == batch })
}

func (m Measurement) find(match func(MeasuredPoint) bool) *MeasuredPoint {
	i := slices.IndexFunc(m.Points, func(p MeasuredPoint) bool { return !p.OutOfMemory && match(p) })
	if i < 0 {
		return nil
	}
	return &m.Points[i]
}

// line are the points of a length that fit, by batch.
func (m Measurement) line(length int) []MeasuredPoint {
	out := slices.DeleteFunc(slices.Clone(m.Points), func(p MeasuredPoint) bool {
		return p.OutOfMemory || p.Length != length || p.Kind == kindContext
	})
	slices.SortStableFunc(out, func(a, b MeasuredPoint) int { return cmp.Compare(a.Batch, b.Batch) })
	return slices.CompactFunc(out, func(a, b MeasuredPoint) bool { return a.Batch == b.Batch })
}

// measuredLength is the length that most points were measured at, of equals the
// longest; 0 without points.
func measuredLength(rows []*Row) int {
	counts := map[int]int{}
	best := 0
	for _, r := range rows {
		for _, m := range r.Measured {
			for _, p := range m.Points {
				if p.Kind == kindContext {
					continue
				}
				counts[p.Length]++
			}
		}
	}
	for length, n := range counts {
		if best == 0 || n > counts[best] || n == counts[best] && length > best {
			best = length
		}
	}
	return best
}
