//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/golden"
	"mlkv/internal/model"
)

func newDecoder(t testing.TB, e engine.Engine, cfg model.Config, w engine.Weights, o engine.DecodeOptions) engine.Decoder {
	t.Helper()
	d, err := e.Decoder(cfg, w, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// gpuDecodeModels adds shapes of the device's kernels to decodeModels.
func gpuDecodeModels(t testing.TB) map[string]model.Config {
	t.Helper()
	list := decodeModels(t, 256, 512, 4)
	for name, heads := range map[string]int{"head size 128": 2, "head size 32": 8, "head size 16": 16} {
		c := list["after 0_0_2 1"]
		c.Heads, c.KVHeads = heads, min(heads, 2)
		list[name] = c
	}
	wide := list["before 0_0_2 1"]
	wide.HiddenSize, wide.Heads = 768, 12
	list["twelve heads a key"] = wide
	wide.SharedKeyRotary = model.RotaryAfter
	list["twelve heads a key, after"] = wide
	return list
}

// script are prompts of several lengths and the tokens that follow.
func script(cfg model.Config, rows, steps int) (prompts [][]int32, next [][]int32) {
	lengths := []int{5, 150, 70, 64, 1, 33}
	for r := range rows {
		prompts = append(prompts, testBatch(cfg, 1, lengths[r%len(lengths)], uint64(r)).Tokens)
	}
	for s := range steps {
		next = append(next, testBatch(cfg, 1, rows, uint64(100+s)).Tokens)
	}
	return prompts, next
}

// play runs a script and returns all logits.
func play(t testing.TB, d engine.Decoder, prompts, next [][]int32) [][]float32 {
	t.Helper()
	logits, err := d.Prefill(t.Context(), prompts)
	out := [][]float32{slices.Clone(logits)}
	for _, tokens := range next {
		if err != nil {
			t.Fatal(err)
		}
		logits, err = d.Next(t.Context(), tokens)
		out = append(out, slices.Clone(logits))
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// farthest is the largest relative deviation of a row's logits, and where it is.
func farthest(got, want [][]float32, vocab int) (worst float64, where string) {
	for s := range want {
		for r := 0; r*vocab < len(want[s]); r++ {
			d := relative(got[s][r*vocab:(r+1)*vocab], want[s][r*vocab:(r+1)*vocab])
			if !(d <= worst) {
				worst, where = d, fmt.Sprintf("step %d, row %d", s, r)
			}
		}
	}
	return worst, where
}

// TestDecoderMatchesTheCPU: logits of prompts and of steps after them, for every
// owner map, in float32 and bf16, for few and for many rows, and with 8 bits.
func TestDecoderMatchesTheCPU(t *testing.T) {
	const most = 17
	exact, rounded := openGPU(t, Options{Float32: true}), openGPU(t, Options{})
	models := gpuDecodeModels(t)
	for _, name := range slices.Sorted(maps.Keys(models)) {
		t.Run(name, func(t *testing.T) {
			matchCPU(t, models[name], most, []matchCase{
				{exact, 3, 0, 5e-6}, {exact, 3, 8, 5e-3}, {rounded, 3, 0, 1e-2}, {rounded, 11, 0, 1e-2}, {rounded, most, 0, 1e-2}, {rounded, most, 8, 1e-2},
			})
		})
	}
}

// TestManyRowsMatchTheCPU is the same for more rows than one tile of the products has.
func TestManyRowsMatchTheCPU(t *testing.T) {
	const most = 70
	e := openGPU(t, Options{})
	for _, name := range []string{"before 0_0_2 1", "after 0_1_1_3 2"} {
		matchCPU(t, decodeModels(t, 256, 512, 4)[name], most, []matchCase{{e, most, 0, 1e-2}, {e, most, 8, 1e-2}})
	}
}

// TestFewRowsMatchManyRows: rows of every length get the same logits from a step that is one
// kernel and from one that is many, and the former the same bits in every replay.
func TestFewRowsMatchManyRows(t *testing.T) {
	const many = 17
	e := openGPU(t, Options{})
	lengths := []int{190, 1, 191, 192, 1500, 380, 64, 2300, 575, 576, 7, 300, 770, 1151, 193, 1000, 20}
	next := make([][]int32, 3)
	models := gpuDecodeModels(t)
	plain := models["twelve heads a key, after"]
	plain.KVHeads = plain.Heads
	for name, cfg := range map[string]model.Config{"a key for all": models["before 0_0_2 1"], "twelve heads a key": models["twelve heads a key"], "head size 128": models["head size 128"], "plain": plain} {
		cfg.MaxPositions = 2400
		w := randomWeights(cfg, 3)
		scaleDown(w, cfg)
		var prompts [][]int32
		for r, n := range lengths {
			prompts = append(prompts, testBatch(cfg, 1, n, uint64(r)).Tokens)
		}
		for s := range next {
			next[s] = testBatch(cfg, 1, many, uint64(100+s)).Tokens
		}
		o := engine.DecodeOptions{Rows: many, MaxSize: 2400}
		want := play(t, newDecoder(t, e, cfg, w, o), prompts, next)
		for _, rows := range [][2]int{{7, 8}, {1, 2}, {0, 5}, {4, 12}, {3, 16}, {1, 17}} {
			first, end := rows[0], rows[1]
			var tokens [][]int32
			for _, n := range next {
				tokens = append(tokens, n[first:end])
			}
			var logits [][]float32
			for _, l := range want {
				logits = append(logits, l[first*cfg.VocabSize:end*cfg.VocabSize])
			}
			o.Rows = end - first
			d := newDecoder(t, e, cfg, w, o)
			got := play(t, d, prompts[first:end], tokens)
			far, where := farthest(got, logits, cfg.VocabSize)
			what := fmt.Sprintf("%s, rows %d to %d: %s deviates by %.3g", name, first, end-1, where, far)
			if !(far <= 1e-2) {
				t.Errorf("%s, at most 1e-2 is expected", what)
			} else {
				t.Log(what)
			}
			for s, l := range play(t, d, prompts[first:end], tokens) {
				sameBits(t, l, got[s])
			}
		}
	}
}

// matchCase is an engine, a number of rows, the bits of the cache, and how far logits
// may be from the CPU's.
type matchCase struct {
	e          *Engine
	rows, bits int
	limit      float64
}

func matchCPU(t *testing.T, cfg model.Config, most int, cases []matchCase) {
	t.Helper()
	w := randomWeights(cfg, 3)
	scaleDown(w, cfg)
	prompts, next := script(cfg, most, 3)
	reference := newDecoder(t, cpu.Open(0), cfg, w, engine.DecodeOptions{Rows: most, MaxSize: 160})
	want := play(t, reference, prompts, next)
	for _, c := range cases {
		if c.e.checkModel(cfg) != nil {
			continue // head size 16 is there in float32 only
		}
		d := newDecoder(t, c.e, cfg, w, engine.DecodeOptions{Rows: c.rows, MaxSize: 160, CacheBits: c.bits})
		var tokens [][]int32
		for _, n := range next {
			tokens = append(tokens, n[:c.rows])
		}
		var logits [][]float32
		for _, l := range want {
			logits = append(logits, l[:c.rows*cfg.VocabSize])
		}
		far, where := farthest(play(t, d, prompts[:c.rows], tokens), logits, cfg.VocabSize)
		what := fmt.Sprintf("%v, %d rows, %d bits: %s deviates by %.3g", c.e.dev.elem, c.rows, c.bits, where, far)
		if !(far <= c.limit) {
			t.Errorf("%s, at most %.3g is expected", what, c.limit)
		} else {
			t.Log(what)
		}
	}
}

// TestDecoderIsDeterministic: the same bits twice, also after another size.
func TestDecoderIsDeterministic(t *testing.T) {
	cfg := decodeModels(t, 256, 512, 4)["before 0_0_2 1"]
	w := randomWeights(cfg, 3)
	scaleDown(w, cfg)
	e := openGPU(t, Options{})
	for _, rows := range []int{3, 20, 70} {
		for _, bits := range []int{16, 8} {
			o := engine.DecodeOptions{Rows: rows, MaxSize: 200, CacheBits: bits}
			d := newDecoder(t, e, cfg, w, o)
			prompts, next := script(cfg, rows, 2)
			first := play(t, d, prompts, next)
			more, err := d.Extend(t.Context(), next[0], 30)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Resize(engine.DecodeOptions{Rows: 1, MaxSize: 10}); err != nil {
				t.Fatal(err)
			}
			if err := d.Resize(o); err != nil {
				t.Fatal(err)
			}
			for s, l := range play(t, d, prompts, next) {
				sameBits(t, l, first[s])
			}
			again, err := d.Extend(t.Context(), next[0], 30)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(more, again) {
				t.Errorf("%d rows, %d bits: other tokens in the second run", rows, bits)
			}
		}
	}
}

// TestDecodedRowStandsAlone: in float32 a row's logits are the same bits in any
// batch.
func TestDecodedRowStandsAlone(t *testing.T) {
	cfg := decodeModels(t, 256, 512, 4)["before 0_0_2 1"]
	w := randomWeights(cfg, 3)
	e := openGPU(t, Options{Float32: true})
	prompts, next := script(cfg, 9, 3)
	all := play(t, newDecoder(t, e, cfg, w, engine.DecodeOptions{Rows: 9, MaxSize: 160}), prompts, next)
	for _, r := range []int{0, 1, 8} {
		var tokens [][]int32
		for _, n := range next {
			tokens = append(tokens, n[r:r+1])
		}
		alone := play(t, newDecoder(t, e, cfg, w, engine.DecodeOptions{Rows: 1, MaxSize: 200}), prompts[r:r+1], tokens)
		for s := range alone {
			sameBits(t, alone[s], all[s][r*cfg.VocabSize:(r+1)*cfg.VocabSize])
		}
	}
}

// TestExtendFollowsTheLogits: tokens that the device chooses are those that the
// logits name.
func TestExtendFollowsTheLogits(t *testing.T) {
	cfg := decodeModels(t, 256, 512, 4)["after 0_1_1_3 2"]
	w := randomWeights(cfg, 3)
	const steps = 40
	for _, rows := range []int{2, 17} {
		e := openGPU(t, Options{Float32: true})
		prompts, next := script(cfg, rows, 1)
		d := newDecoder(t, e, cfg, w, engine.DecodeOptions{Rows: rows, MaxSize: 200})
		play(t, d, prompts, nil)
		got, err := d.Extend(t.Context(), next[0], steps)
		if err != nil {
			t.Fatal(err)
		}
		play(t, d, prompts, nil)
		tokens := slices.Clone(next[0])
		for s := range steps {
			logits, err := d.Next(t.Context(), tokens)
			if err != nil {
				t.Fatal(err)
			}
			for r := range tokens {
				row := logits[r*cfg.VocabSize : (r+1)*cfg.VocabSize]
				tokens[r] = int32(slices.Index(row, slices.Max(row)))
				if got[r*steps+s] != tokens[r] {
					t.Fatalf("%d rows: row %d, step %d: chose %d, the logits say %d", rows, r, s, got[r*steps+s], tokens[r])
				}
			}
		}
	}
}

// TestGoldenDecode: greedy decoding gives the tokens that transformers' generate
// gives, for prompts together and alone.
func TestGoldenDecode(t *testing.T) {
	for _, path := range golden.Find(t, "*/generate.json") {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			e := openGPU(t, Options{Float32: true})
			var want struct{ Prompt, Greedy [][]int32 }
			data, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(data, &want)
			}
			if err != nil {
				t.Fatal(err)
			}
			c, err := checkpoint.Open(filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, rows := range []int{1, len(want.Prompt)} {
				for first := 0; first < len(want.Prompt); first += rows {
					prompts, greedy := want.Prompt[first:first+rows], want.Greedy[first:first+rows]
					size := 0
					got := make([][]int32, rows)
					for r := range got {
						got[r] = slices.Clone(prompts[r])
						size = max(size, len(greedy[r]))
					}
					d := newDecoder(t, e, c.Config(), c, engine.DecodeOptions{Rows: rows, MaxSize: size}).(engine.Continuer)
					steps := len(greedy[0]) - len(prompts[0])
					if err := d.Continue(t.Context(), prompts, engine.ContinueOptions{Steps: steps}, func(tokens []int32) (bool, error) {
						for r := range got {
							if len(got[r]) < len(greedy[r]) {
								got[r] = append(got[r], tokens[r])
							}
						}
						return true, nil
					}); err != nil {
						t.Fatal(err)
					}
					for r := range got {
						if !slices.Equal(got[r], greedy[r]) {
							t.Errorf("%d rows: prompt %d continues as\n%v, want\n%v", rows, first+r, got[r], greedy[r])
						}
					}
				}
			}
		})
	}
}

// TestDecoderMemory: what is held is what is told, and the limit is exact.
func TestDecoderMemory(t *testing.T) {
	cfg := decodeModels(t, 256, 512, 4)["after 0_0_2 1"]
	e := openGPU(t, Options{})
	o := engine.DecodeOptions{Rows: 100, MaxSize: 300}
	d := newDecoder(t, e, cfg, randomWeights(cfg, 1), o)
	m := d.Memory()
	if want := int64(cfg.KVBytes(o.Rows, o.MaxSize, 2)); m.Cache != want || d.CacheBytes() != want {
		t.Errorf("cache of %d bytes, the formula says %d", m.Cache, want)
	}
	o.MemoryLimit = m.Total()
	if err := d.Resize(o); err != nil {
		t.Errorf("limit of what is held: %v", err)
	}
	o.MemoryLimit--
	if err := d.Resize(o); err == nil {
		t.Error("a limit below what is held was kept")
	}
	if _, err := d.Next(t.Context(), make([]int32, o.Rows)); err == nil || d.CacheBytes() != 0 {
		t.Error("a decoder without a cache decodes")
	}
	if err := d.Resize(engine.DecodeOptions{Rows: 7, MaxSize: 33, CacheBits: 8}); err != nil {
		t.Fatal(err)
	}
	if err := d.Fill(t.Context(), 30, 1); err != nil {
		t.Fatal(err)
	}
	if logits, err := d.Next(t.Context(), make([]int32, 7)); err != nil || math.IsNaN(float64(logits[0])) {
		t.Errorf("after Fill: %v, %v", logits[:1], err)
	}
	if _, err := d.Extend(t.Context(), make([]int32, 7), 3); err == nil {
		t.Error("a full cache took more tokens")
	}
}

// dealUnits is what decode_begin computes: where each of the teams begins among rows
// of the given lengths, as key/value head and unit of positions, and the end of all.
func dealUnits(seen []int, kvHeads, unit, rest, teams int) []int32 {
	var all [][2]int
	most := (slices.Max(seen)+unit-1)/unit + rest
	for r, n := range seen {
		for h := range kvHeads {
			head := r*kvHeads + h
			for u := range (n + unit - 1) / unit {
				all = append(all, [2]int{head, u})
			}
			for range rest {
				all = append(all, [2]int{head + 1, 0})
			}
		}
	}
	shares := min(teams, (len(all)+1)/2, len(all)*62/most)
	var places []int32
	for b := range teams + 1 {
		p := [2]int{len(seen) * kvHeads, 0}
		if b < shares {
			p = all[b*len(all)/shares]
		}
		places = append(places, int32(p[0]), int32(p[1]))
	}
	return places
}

// TestWorkIsDealtEvenly: blocks of the attention get equal shares of rows of any
// lengths.
func TestWorkIsDealtEvenly(t *testing.T) {
	cfg := decodeModels(t, 256, 512, 4)["after 0_0_2 2"]
	e := openGPU(t, Options{})
	w := randomWeights(cfg, 1)
	// Few rows are dealt by these kernels where the cache has 8 bits.
	for _, c := range []struct{ rows, bits int }{{1, 8}, {3, 8}, {17, 16}, {20, 16}, {1500, 16}} {
		rows := c.rows
		d := newDecoder(t, e, cfg, w, engine.DecodeOptions{Rows: rows, MaxSize: 400, CacheBits: c.bits}).(*decoder)
		prompts, _ := script(cfg, rows, 0)
		play(t, d, prompts, nil)
		if _, err := d.Next(t.Context(), make([]int32, rows)); err != nil {
			t.Fatal(err)
		}
		var got, want []int32
		if err := e.dev.gpu.Do(func() error {
			l, err := d.attentionLaunch()
			if err != nil {
				return err
			}
			want = dealUnits(d.lengths, cfg.KVHeads, l.unit, l.rest, l.teams)
			got = make([]int32, len(want))
			return gpu.Download(got, d.mem.places)
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d rows, %d bits: dealt %v, want %v", rows, c.bits, got, want)
		}
	}
}

// decodeCases are timed with 2,000 tokens in the cache and 48 new ones.
var decodeCases = []struct {
	model string
	rows  int
	bits  int
}{
	{"MLKV-6", 1024, 16}, {"MLKV-6", 256, 16}, {"MHA-144", 256, 16}, {"MHA-144", 1, 16}, {"MLKV-6", 1024, 8},
	{"MLKV-6", 512, 16}, {"MHA-144", 32, 16}, {"MLKV-6", 1, 16}, {"MLKV-6", 32, 16}, {"MHA-144", 256, 8},
}

// stepFloor is the least number of bytes that a step moves at a length: the weights
// that every row shares, once, and in every layer its owner's keys and values.
func (p decodePlan) stepFloor(length int) int64 {
	head := int64(p.cfg.VocabSize) * int64(p.cfg.HiddenSize)
	weights := int64(p.cfg.Parameters()) - head // the table of embeddings is looked up only
	if p.cfg.TiedEmbeddings {
		weights += head
	}
	perPosition := 2 * int64(p.cfg.KVSize()) * int64(p.bits) / 8
	if p.bits == 8 {
		perPosition += 2 * int64(p.cfg.KVHeads) * 2
	}
	return weights*p.elem + int64(p.cfg.Layers)*int64(p.o.Rows)*int64(length)*perPosition
}

// BenchmarkDecode times steps like the PyTorch program bench_decode.py.
func BenchmarkDecode(b *testing.B) {
	const filled, steps = 2000, 48
	e := openGPU(b, Options{})
	for _, c := range decodeCases {
		b.Run(fmt.Sprintf("%s_x%d_%dbit", c.model, c.rows, c.bits), func(b *testing.B) {
			cfg := benchModels(b)[c.model]
			o := engine.DecodeOptions{Rows: c.rows, MaxSize: filled + steps, CacheBits: c.bits}
			d := newDecoder(b, e, cfg, benchWeights{cfg}, o)
			tokens := make([]int32, c.rows)
			for b.Loop() {
				b.StopTimer()
				if err := d.Fill(b.Context(), filled, 1); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := d.Extend(b.Context(), tokens, steps); err != nil {
					b.Fatal(err)
				}
			}
			seconds := b.Elapsed().Seconds() / float64(b.N*steps)
			floor := float64(d.(*decoder).plan.stepFloor(filled+steps/2)) / copyRate
			b.ReportMetric(float64(c.rows)/seconds, "tokens/s")
			b.ReportMetric(seconds*1e3, "ms/step")
			b.ReportMetric(100*floor/seconds, "%floor")
			m := d.Memory()
			b.ReportMetric(100*float64(m.Total()-m.Weights-m.Cache)/float64(m.Weights+m.Cache), "%beyond")
		})
	}
}

// BenchmarkDecodeKernels runs one step outside of a graph, for profilers.
func BenchmarkDecodeKernels(b *testing.B) {
	e := openGPU(b, Options{})
	for _, c := range decodeCases {
		b.Run(fmt.Sprintf("%s_x%d_%dbit", c.model, c.rows, c.bits), func(b *testing.B) {
			cfg := benchModels(b)[c.model]
			d := newDecoder(b, e, cfg, benchWeights{cfg}, engine.DecodeOptions{Rows: c.rows, MaxSize: 2048, CacheBits: c.bits}).(*decoder)
			if err := d.Fill(b.Context(), 2000, 1); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := d.gpu.Do(func() error { return inOrder(d.greedy, d.stream.Synchronize) }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// copyRate is what the H100 copies, in bytes a second: the floor's bandwidth.
const copyRate = 3.02e12
