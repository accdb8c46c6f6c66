package measure

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/engine/device"
	"mlkv/internal/model"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// tiny is a model of 4 layers of 4 heads of 16.
func tiny(t *testing.T, owners, heads int) model.Config {
	t.Helper()
	c := model.Plain(64, 64, 4, 4)
	c.KVHeads = heads
	var err error
	if c.Owner, err = model.ContiguousOwners(4, owners); err != nil {
		t.Fatal(err)
	}
	return c
}

func options(t *testing.T) Options {
	return Options{
		Models:  []Model{{Name: "MHA-16", Config: tiny(t, 4, 4)}, {Name: "MLKV-2", Config: tiny(t, 2, 1)}},
		Device:  device.Options{Name: "cpu"},
		Lengths: []int{48}, Batches: []int{4, 1, 4, 1 << 20}, Steps: 5, Seconds: 5,
		Memory: 4 << 20, Largest: true, ContextBatches: []int{2}, Seed: 7, Baseline: "MHA-16",
	}
}

func run(t *testing.T, o Options) (*Results, string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	o.JSON = true
	err := Run(t.Context(), o, ui.Streams{Out: &out, Err: &errs, Width: 80})
	if err != nil {
		return nil, errs.String(), err
	}
	var r Results
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return &r, errs.String(), nil
}

// TestSeparateOwners: values with owners of their own are shown beside keys.
func TestSeparateOwners(t *testing.T) {
	c := tiny(t, 2, 1).WithOwners(model.OwnerMap{0, 0, 2, 2}, model.OwnerMap{0, 1, 1, 3})
	m := newModelResult(Model{Name: "separate", Config: c}, 16)
	if m.LayerMap != "0_0_2_2" || m.ValueLayerMap != "0_1_1_3" || m.KVBytes != (2+3)*c.KVSize()*2 {
		t.Errorf("%+v", m)
	}
	var out bytes.Buffer
	if err := (&Results{Models: []ModelResult{m}}).summary("").Text(&out); err != nil || !strings.Contains(out.String(), "2+3 x 1") {
		t.Errorf("%v\n%s", err, &out)
	}
	text, err := json.Marshal(newModelResult(Model{Config: tiny(t, 2, 1)}, 16))
	if err != nil || strings.Contains(string(text), "value_") {
		t.Errorf("one map for both: %v %s", err, text)
	}
}

// TestRun: the points are those that were asked for, and what is said to be the
// largest that fits is so by the memory that decoders of its size hold.
func TestRun(t *testing.T) {
	o := options(t)
	r, _, err := run(t, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range r.Models {
		cfg := o.Models[i].Config
		if m.KVBytes != cfg.KVBytes(1, 1, 4) || m.KVBytesRead != 4*2*cfg.KVSize()*4 || m.Weights != int64(cfg.Parameters()*4) {
			t.Errorf("%s: %+v", m.Name, m)
		}
		var kinds []string
		for _, p := range m.Points {
			kinds = append(kinds, fmt.Sprintf("%s %v", p.Kind, p.OutOfMemory))
			if p.OutOfMemory {
				continue
			}
			if want := int64(cfg.KVBytes(p.Batch, p.Length, 4)); p.KVFormula != want || p.KVAllocated != want {
				t.Errorf("%s, %s: cache %d, formula %d, want %d", m.Name, p.Kind, p.KVAllocated, p.KVFormula, want)
			}
			if p.Steps != o.Steps || p.CacheLength != p.Length-o.Steps-1 || !(p.TokensPerSecond > 0) || !(p.BytesPerSecond > 0) {
				t.Errorf("%s: %+v", m.Name, p)
			}
		}
		if want := []string{"batch false", "batch false", "batch true", "largest batch false", "longest context false"}; !slices.Equal(kinds, want) {
			t.Errorf("%s: points %q, want %q", m.Name, kinds, want)
			continue
		}
		largest, longest := m.Points[3], m.Points[4]
		for _, c := range []struct {
			rows, size int
			fits       bool
		}{
			{largest.Batch, 48, true}, {largest.Batch + max(1, largest.Batch>>10), 48, false},
			{2, longest.Length, true}, {2, longest.Length + max(1, longest.Length>>10), false},
		} {
			if got := fits(t, cfg, c.rows, c.size, o.Memory); got != c.fits {
				t.Errorf("%s: batch %d at %d tokens fits: %v, the search says otherwise", m.Name, c.rows, c.size, got)
			}
		}
	}
	if a, b := r.Models[0].Points[3].Batch, r.Models[1].Points[3].Batch; b < 4*a {
		t.Errorf("an eighth of the cache makes batch %d of %d", b, a)
	}
}

func fits(t *testing.T, cfg model.Config, rows, size int, limit int64) bool {
	t.Helper()
	o := Options{Models: []Model{{Config: cfg}}}
	w, _, _, err := o.Models[0].open(1)
	if err != nil {
		t.Fatal(err)
	}
	d, err := cpu.Open(0).Decoder(cfg, w, engine.DecodeOptions{Rows: rows, MaxSize: size, MemoryLimit: limit})
	if err == nil {
		d.Close()
	}
	return err == nil
}

// TestWeightsDoNotFit: where not even the weights fit, every point says so.
func TestWeightsDoNotFit(t *testing.T) {
	o := options(t)
	o.Memory = 1000
	r, _, err := run(t, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Models {
		if len(m.Points) != 3 || slices.ContainsFunc(m.Points, func(p Point) bool { return !p.OutOfMemory }) {
			t.Errorf("%+v", m.Points)
		}
	}
	var out bytes.Buffer
	if err := r.print(&out, ""); err != nil || !strings.Contains(out.String(), "full") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// brittle is an engine whose decoders run out of memory when they run with more
// rows than they say.
type brittle struct {
	engine.Engine
	rows int
}

type brittleDecoder struct {
	engine.Decoder
	rows, most int
}

func (b brittle) Decoder(c model.Config, w engine.Weights, o engine.DecodeOptions) (engine.Decoder, error) {
	d, err := b.Engine.Decoder(c, w, o)
	return &brittleDecoder{d, o.Rows, b.rows}, err
}

func (d *brittleDecoder) Resize(o engine.DecodeOptions) error {
	d.rows = o.Rows
	return d.Decoder.Resize(o)
}

func (d *brittleDecoder) Extend(ctx context.Context, tokens []int32, steps int) ([]int32, error) {
	if d.rows > d.most {
		return nil, fmt.Errorf("extend: %w", engine.ErrOutOfMemory)
	}
	return d.Decoder.Extend(ctx, tokens, steps)
}

func TestMemoryRunsOutWhileRunning(t *testing.T) {
	o := options(t)
	o.Models, o.ContextBatches = o.Models[:1], nil
	eng := cpu.Open(0)
	s := ui.Streams{Out: new(bytes.Buffer), Err: new(bytes.Buffer)}
	whole, err := measureModel(t.Context(), o, eng, o.Models[0], s)
	if err != nil {
		t.Fatal(err)
	}
	largest := whole.Points[len(whole.Points)-1].Batch
	r, err := measureModel(t.Context(), o, brittle{eng, largest - 2}, o.Models[0], s)
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Points[len(r.Points)-1]; p.OutOfMemory || p.Batch != largest-2 {
		t.Errorf("largest batch %d, out of memory %v; want %d", p.Batch, p.OutOfMemory, largest-2)
	}
	if _, err := measureModel(t.Context(), o, brittle{eng, 0}, o.Models[0], s); err != nil {
		t.Errorf("nothing runs: %v", err)
	}
}

func TestGreatest(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		limit := random.IntN(1 << random.IntN(24))
		known := random.IntN(limit + 1)
		guess := random.IntN(1 << random.IntN(25))
		probes := 0
		got, err := greatest(known, guess, func(n int) (bool, error) {
			if probes++; n <= 0 || n <= known {
				t.Fatalf("limit %d, known %d, guess %d: tried %d", limit, known, guess, n)
			}
			return n <= limit, nil
		})
		if err != nil || got > limit || limit-got > max(0, limit>>10) || probes > 60 {
			t.Fatalf("limit %d, known %d, guess %d: found %d in %d probes, %v", limit, known, guess, got, probes, err)
		}
	}
	failure := errors.New("failure")
	if _, err := greatest(0, 5, func(int) (bool, error) { return false, failure }); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	probes := 0
	if _, err := greatest(0, 100_000, func(n int) (bool, error) { probes++; return n <= 100_300, nil }); err != nil || probes > 8 {
		t.Errorf("a guess that is 0.3%% low took %d probes, %v", probes, err)
	}
}

// counting is an engine whose decoders count how often they are resized, and
// hold more for each of the first rows, as where logits of so many exist at a time.
type counting struct {
	engine.Engine
	resizes int
}

type countingDecoder struct {
	engine.Decoder
	*counting
	held int64
}

func (c *counting) Decoder(cfg model.Config, w engine.Weights, o engine.DecodeOptions) (engine.Decoder, error) {
	o.MemoryLimit = 0
	d, err := c.Engine.Decoder(cfg, w, o)
	return &countingDecoder{Decoder: d, counting: c}, err
}

func (d *countingDecoder) Resize(o engine.DecodeOptions) error {
	d.resizes++
	d.held = int64(o.Rows*4000 + min(o.Rows, 100)*3000)
	if limit := o.MemoryLimit; limit > 0 && d.held > limit {
		return engine.ErrOutOfMemory
	}
	o.MemoryLimit = 0
	return d.Decoder.Resize(o)
}

func (d *countingDecoder) Memory() engine.Memory { return engine.Memory{Cache: d.held} }

// TestFewProbes: a search needs few resizes, also where memory does not grow
// evenly, since each may take a device a second.
func TestFewProbes(t *testing.T) {
	o := options(t)
	o.Batches, o.ContextBatches, o.Memory, o.Models = nil, nil, 4<<20, o.Models[1:]
	c := &counting{Engine: cpu.Open(0)}
	r, err := measureModel(t.Context(), o, c, o.Models[0], ui.Streams{Out: new(bytes.Buffer), Err: new(bytes.Buffer)})
	if err != nil {
		t.Fatal(err)
	}
	if want := (4<<20 - 100*3000) / 4000; r.Points[0].Batch != want || c.resizes > 8 {
		t.Errorf("batch %d after %d resizes, want %d after at most 8", r.Points[0].Batch, c.resizes, want)
	}
}

// TestCSV: the first columns are those of the authors' file, in its units.
func TestCSV(t *testing.T) {
	r := &Results{Models: []ModelResult{{Name: "a", Background: 1 << 20, Memory: 2 << 20, CacheBits: 16, Points: []Point{
		{Kind: KindBatch, Batch: 8, Length: 2048, CacheLength: 2000, Steps: 47, Memory: 10 << 20, KVFormula: 4 << 20, KVAllocated: 5 << 20, Seconds: 2, TokensPerSecond: 188},
		{Kind: KindBatch, Batch: 16, Length: 2048, CacheLength: 2000, OutOfMemory: true},
	}}}}
	var out bytes.Buffer
	if err := r.csv(&out); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"model_name,batch_size,sequence_length,background_memory_usage,model_memory_usage,memory_usage,kv_cache_mem,inference_time,inference_speed,is_oom",
		"a,8,48,1,2,7,5,2,188,False", "a,16,48,1,2,inf,0,inf,0,True",
	} {
		if got := strings.Join(rows[i][:10], ","); got != want {
			t.Errorf("row %d: %s, want %s", i, got, want)
		}
	}
}

func TestOutput(t *testing.T) {
	o := options(t)
	o.Output = filepath.Join(t.TempDir(), "new", "out")
	o.Batches, o.ContextBatches, o.Memory = []int{1}, nil, 1<<20
	eng := cpu.Open(0)
	s := ui.Streams{Out: new(bytes.Buffer), Err: new(bytes.Buffer)}
	files := func() string {
		entries, _ := os.ReadDir(o.Output)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}

	// Interrupted before the first model: nothing is left.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measureAll(ctx, o, eng, provenance.New(nil), s); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if got := files(); got != "" {
		t.Errorf("a cancelled measurement left %s", got)
	}

	// Interrupted in the second model: the first is kept.
	if _, err := measureAll(t.Context(), o, &failing{Engine: eng, after: 1}, provenance.New(nil), s); !errors.Is(err, errFailing) {
		t.Fatalf("failing: %v", err)
	}
	if got := files(); got != journalName {
		t.Errorf("an interrupted measurement left %s", got)
	}
	journal, err := os.ReadFile(filepath.Join(o.Output, journalName))
	if err != nil {
		t.Fatal(err)
	}

	// What a crash left of a line is dropped; other options do not go on.
	write := func(text []byte) {
		if err := os.WriteFile(filepath.Join(o.Output, journalName), text, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(append(slices.Clone(journal), `{"name":"MLKV-2","lay`...))
	other := o
	other.Steps++
	if _, err := measureAll(t.Context(), other, eng, provenance.New(nil), s); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "other models, options or device") {
		t.Errorf("other options: %v", err)
	}
	counting := &failing{Engine: eng, after: 1}
	r, err := measureAll(t.Context(), o, counting, provenance.New(nil), s)
	if err != nil || len(r.Models) != 2 || counting.opened != 1 {
		t.Fatalf("going on measured %d models: %v", counting.opened, err)
	}
	if got := files(); got != csvName+" "+ResultName {
		t.Errorf("the folder holds %s", got)
	}

	// Results are not overwritten silently.
	if _, err := measureAll(t.Context(), o, eng, provenance.New(nil), s); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "--force") {
		t.Errorf("existing results: %v", err)
	}
	o.Force = true
	write(append(journal, "{]\n"...))
	if _, err := measureAll(t.Context(), o, eng, provenance.New(nil), s); err != nil {
		t.Errorf("--force: %v", err)
	}
	o.Force = false
	if err := os.Remove(filepath.Join(o.Output, ResultName)); err != nil {
		t.Fatal(err)
	}
	write(append(journal, "{]\n"...))
	if _, err := measureAll(t.Context(), o, eng, provenance.New(nil), s); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), journalName+":3: damaged") {
		t.Errorf("damaged journal: %v", err)
	}
}

// TestWeightsChanged: an interrupted measurement does not go on with a checkpoint
// that is not the one it read.
func TestWeightsChanged(t *testing.T) {
	o := options(t)
	path := filepath.Join(t.TempDir(), "model")
	save := func(seed int64) {
		c := tiny(t, 4, 4)
		if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o777), checkpoint.Write(path, c, fresh.New(c, seed), checkpoint.WriteOptions{})); err != nil {
			t.Fatal(err)
		}
	}
	save(1)
	o.Models[0] = Model{Name: "MHA-16", Path: path}
	o.Output = filepath.Join(t.TempDir(), "out")
	o.Batches, o.ContextBatches, o.Memory = []int{1}, nil, 1<<20
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	eng, s := cpu.Open(0), ui.Streams{Out: new(bytes.Buffer), Err: new(bytes.Buffer)}
	if _, err := measureAll(t.Context(), o, &failing{Engine: eng, after: 1}, provenance.New(nil), s); !errors.Is(err, errFailing) {
		t.Fatalf("failing: %v", err)
	}
	save(2)
	if _, err := measureAll(t.Context(), o, eng, provenance.New(nil), s); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "weights changed") {
		t.Errorf("other weights: %v", err)
	}
	save(1)
	if _, err := measureAll(t.Context(), o, eng, provenance.New(nil), s); err != nil {
		t.Errorf("the weights that were: %v", err)
	}
}

// failing opens some decoders, then fails.
type failing struct {
	engine.Engine
	after, opened int
}

var errFailing = errors.New("no more decoders")

func (f *failing) Decoder(c model.Config, w engine.Weights, o engine.DecodeOptions) (engine.Decoder, error) {
	if f.opened == f.after {
		return nil, errFailing
	}
	f.opened++
	return f.Engine.Decoder(c, w, o)
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Options)
		code   int
		want   string
	}{
		{"no model", func(o *Options) { o.Models = nil }, ui.ExitUsage, "no model"},
		{"no steps", func(o *Options) { o.Steps = 0 }, ui.ExitUsage, "steps"},
		{"no time", func(o *Options) { o.Seconds = 0 }, ui.ExitUsage, "seconds"},
		{"too short", func(o *Options) { o.Lengths = []int{6} }, ui.ExitUsage, "at least 7"},
		{"no length", func(o *Options) { o.Lengths = nil }, ui.ExitUsage, "lengths"},
		{"batch 0", func(o *Options) { o.Batches = []int{0} }, ui.ExitUsage, "batches: expected 1"},
		{"two of a name", func(o *Options) { o.Models[1].Name = "MHA-16" }, ui.ExitUsage, `"MHA-16"`},
		{"unknown baseline", func(o *Options) { o.Baseline = "MHA-15" }, ui.ExitUsage, "did you mean MHA-16?"},
		{"missing folder", func(o *Options) { o.Models[0].Path = "missing" }, ui.ExitInput, "missing"},
		{"bits", func(o *Options) { o.CacheBits = 8 }, ui.ExitFailed, "has 32"},
	} {
		o := options(t)
		c.change(&o)
		if _, _, err := run(t, o); ui.ExitCode(err) != c.code || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v; want exit code %d and %q", c.name, err, c.code, c.want)
		}
	}
}

func TestPrint(t *testing.T) {
	o := options(t)
	o.Batches = []int{2}
	r, _, err := run(t, o)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.print(&out, "MHA-16"); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{"tokens/s at 48 tokens\n", "largest batch", "KV formula", "longest context, batch 2", "KV bytes of MHA-16", "MLKV-2  2 x 1", "12.5%", "1.00x"} {
		if !strings.Contains(text, want) {
			t.Errorf("the output lacks %q:\n%s", want, text)
		}
	}
}
