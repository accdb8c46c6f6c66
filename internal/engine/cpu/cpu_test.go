package cpu

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/engine/enginetest"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

var background = context.Background()

// small is a model of odd sizes with the given owners, of values behind a slash where
// they have their own, and key/value heads.
func small(t testing.TB, owners string, kvHeads int, where model.KeyRotary) model.Config {
	t.Helper()
	var maps []model.OwnerMap
	for _, text := range strings.Split(owners, "/") {
		m, err := model.ParseOwnerMap(text)
		if err != nil {
			t.Fatal(err)
		}
		maps = append(maps, m)
	}
	c := model.Plain(61, 48, len(maps[0]), 6).WithOwners(maps[0], maps[len(maps)-1])
	c.KVHeads, c.SharedKeyRotary = kvHeads, where
	c.RotaryPct, c.IntermediateSize, c.MaxPositions = 0.5, 90, 64
	return c
}

// weightsOf is a set of arrays by parameter.
type weightsOf map[string][]float32

func (w weightsOf) Float32(name string) ([]float32, error) { return w[name], nil }

// random gives every parameter seeded values large enough to matter.
func random(cfg model.Config, seed uint64) weightsOf {
	w := weightsOf{}
	r := rand.New(rand.NewPCG(seed, 1))
	for _, p := range cfg.Params() {
		x := make([]float32, p.Size())
		for i := range x {
			x[i] = float32(r.NormFloat64() * 0.2)
			if p.Kind == model.Norm && len(p.Name) > 7 && p.Name[len(p.Name)-7:] == ".weight" {
				x[i]++
			}
		}
		w[p.Name] = x
	}
	return w
}

func randomTokens(n, vocab int, seed uint64) []int32 {
	r := rand.New(rand.NewPCG(seed, 2))
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(r.IntN(vocab))
	}
	return out
}

var ownerMaps = []string{"0_1_2_3", "0_0_0_0", "0_0_2_2", "0_1_1_3", "0_1_0_1", "0_1_0_0", "0_0_2_0_2_5",
	"0_0_2_2/0_1_1_3", "0_1_1_1/0_0_0_3", "0_0_0_0/0_1_2_3"}

// TestCachedDecoding compares the logits of token-by-token decoding with those
// of one pass over the whole sequence.
func TestCachedDecoding(t *testing.T) {
	for _, where := range []model.KeyRotary{model.RotaryAfter, model.RotaryBefore} {
		for _, owners := range ownerMaps {
			for _, kvHeads := range []int{6, 2, 1} {
				t.Run(fmt.Sprint(where, owners, kvHeads), func(t *testing.T) {
					checkDecoding(t, small(t, owners, kvHeads, where))
				})
			}
		}
	}
	for _, change := range []struct {
		name string
		f    func(*model.Config)
	}{
		{"sequential residual", func(c *model.Config) { c.ParallelResidual = false }},
		{"no rotary", func(c *model.Config) { c.RotaryPct = 0 }},
		{"full rotary", func(c *model.Config) { c.RotaryPct = 1 }},
		{"key/value MLPs", func(c *model.Config) { c.KVIntermediateSize = 31 }},
		{"tied embeddings", func(c *model.Config) { c.TiedEmbeddings = true }},
	} {
		t.Run(change.name, func(t *testing.T) {
			c := small(t, "0_0_2_2", 2, model.RotaryBefore)
			change.f(&c)
			checkDecoding(t, c)
		})
	}
}

func checkDecoding(t *testing.T, cfg model.Config) {
	t.Helper()
	w := random(cfg, 3)
	scorer, err := Open(0).Scorer(cfg, w)
	if err != nil {
		t.Fatal(err)
	}
	const length = 15
	seqs := [][]int32{randomTokens(length, cfg.VocabSize, 4), randomTokens(length, cfg.VocabSize, 5)}
	prompts := []int{3, 6} // rows of different lengths
	dec, err := Open(0).Decoder(cfg, w, engine.DecodeOptions{Rows: 2, MaxSize: length})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := dec.CacheBytes(), int64(cfg.KVBytes(2, length, 4)); got != want {
		t.Errorf("cache holds %d bytes, the formula says %d", got, want)
	}
	var full [][]float32
	for _, s := range seqs {
		l, err := scorer.Logits(background, s)
		if err != nil {
			t.Fatal(err)
		}
		full = append(full, l)
	}
	v := cfg.VocabSize
	logits, err := dec.Prefill(background, [][]int32{seqs[0][:prompts[0]], seqs[1][:prompts[1]]})
	for step := 0; ; step++ {
		if err != nil {
			t.Fatal(err)
		}
		for r := range seqs {
			at := prompts[r] + step - 1
			enginetest.Compare(t, fmt.Sprintf("row %d, logits after token %d", r, at), logits[r*v:(r+1)*v], full[r][at*v:(at+1)*v], 1e-4)
		}
		if prompts[1]+step == length {
			break
		}
		logits, err = dec.Next(background, []int32{seqs[0][prompts[0]+step], seqs[1][prompts[1]+step]})
	}
	if _, err := dec.Next(background, []int32{1, 1}); err == nil {
		t.Error("a full cache took another token")
	}
}

// TestTapeMachine: gorgonia's own machine, run on the same graph, gives the
// same loss and gradients bit for bit.
func TestTapeMachine(t *testing.T) {
	for _, owners := range ownerMaps {
		cfg := small(t, owners, 2, model.RotaryBefore)
		w := random(cfg, 6)
		b := engine.Batch{Rows: 2, Length: 9, Tokens: randomTokens(18, cfg.VocabSize, 7), Targets: randomTokens(18, cfg.VocabSize, 8)}
		b.Targets[4] = engine.Ignore
		tr, err := Open(0).Trainer(cfg, w, engine.TrainOptions{Rows: 2, Length: 9})
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Accumulate(background, b); err != nil {
			t.Fatal(err)
		}
		g, err := graph.Build(cfg, graph.Options{Rows: 2, Length: 9, Output: graph.Gradients})
		if err != nil {
			t.Fatal(err)
		}
		let := func(n *gorgonia.Node, backing any) {
			if err := gorgonia.Let(n, tensor.New(tensor.WithShape(n.Shape()...), tensor.WithBacking(backing))); err != nil {
				t.Fatal(err)
			}
		}
		for name, n := range g.Params {
			let(n, w[name])
		}
		let(g.Tokens, b.Tokens)
		let(g.Targets, b.Targets)
		m := gorgonia.NewTapeMachine(g.ExprGraph)
		if err := m.RunAll(); err != nil {
			t.Fatal(err)
		}
		for name, n := range g.Grads {
			got, want := tr.(*trainer).gradient(name), n.Value().Data().([]float32)
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("owners %s, gradient of %s, element %d: %g, by the tape machine %g", owners, name, i, got[i], want[i])
				}
			}
		}
		m.Close()
	}
}

// TestAccumulation: several micro-batches make the step that one large batch
// makes, though positions are ignored unevenly.
func TestAccumulation(t *testing.T) {
	cfg := small(t, "0_0_2_2", 2, model.RotaryAfter)
	w := random(cfg, 9)
	opt := engine.AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Decay: engine.DecayMatrices, Clip: 0.5}
	tokens, targets := randomTokens(6*8, cfg.VocabSize, 1), randomTokens(6*8, cfg.VocabSize, 2)
	for i := range 11 {
		targets[i] = engine.Ignore
	}
	var steps []engine.Step
	var weights [][]float32
	for _, rows := range []int{6, 2, 1} {
		tr, err := Open(0).Trainer(cfg, w, engine.TrainOptions{Rows: rows, Length: 8, Optimizer: opt})
		if err != nil {
			t.Fatal(err)
		}
		for lo := 0; lo < 6; lo += rows {
			b := engine.Batch{Rows: rows, Length: 8, Tokens: tokens[lo*8 : (lo+rows)*8], Targets: targets[lo*8 : (lo+rows)*8]}
			if err := tr.Accumulate(background, b); err != nil {
				t.Fatal(err)
			}
		}
		step, err := tr.Update(background, 0.01)
		if err != nil {
			t.Fatal(err)
		}
		all := []float32{}
		for _, p := range cfg.Params() {
			x := make([]float32, p.Size())
			if err := tr.Read(p.Name, engine.SlotFirst, x); err != nil {
				t.Fatal(err)
			}
			all = append(all, x...)
		}
		steps, weights = append(steps, step), append(weights, all)
	}
	for i := range steps {
		if math.Abs(steps[i].Loss-steps[0].Loss) > 1e-5 || math.Abs(steps[i].GradNorm-steps[0].GradNorm) > 1e-4*steps[0].GradNorm || steps[i].Tokens != 37 {
			t.Errorf("step %+v, in one batch %+v", steps[i], steps[0])
		}
		enginetest.Compare(t, "first moments", weights[i], weights[0], 1e-4)
	}
}

// TestAnyThreads: the number of threads changes no bit.
func TestAnyThreads(t *testing.T) {
	defer blas.SetThreads(0)
	cfg := small(t, "0_0_2_2", 1, model.RotaryAfter)
	w := random(cfg, 9)
	var first []float32
	for _, threads := range []int{1, 2, 5} {
		tr, err := Open(threads).Trainer(cfg, w, engine.TrainOptions{Rows: 3, Length: 40, Optimizer: engine.AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Clip: 1}})
		if err != nil {
			t.Fatal(err)
		}
		for s := range 3 {
			b := engine.Batch{Rows: 3, Length: 40, Tokens: randomTokens(120, cfg.VocabSize, uint64(s)), Targets: randomTokens(120, cfg.VocabSize, uint64(s)+50)}
			if err := tr.Accumulate(background, b); err != nil {
				t.Fatal(err)
			}
			if _, err := tr.Update(background, 0.01); err != nil {
				t.Fatal(err)
			}
		}
		x := make([]float32, cfg.VocabSize*cfg.HiddenSize)
		if err := tr.Read(model.EmbedOut, engine.SlotWeight, x); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = x
		}
		for i := range x {
			if x[i] != first[i] {
				t.Fatalf("%d threads: element %d is %g, with one %g", threads, i, x[i], first[i])
			}
		}
	}
}

// TestScoreAlone: a request's score is the same bits alone and among others
// (within rounding where there is no vector kernel for small products), and
// equals the log-softmax of the logits.
func TestScoreAlone(t *testing.T) {
	cfg := small(t, "0_0_2_2", 2, model.RotaryAfter)
	s, err := Open(0).Scorer(cfg, random(cfg, 1))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 9))
	var reqs []engine.Request
	for i := range 17 {
		n := 2 + r.IntN(45)
		reqs = append(reqs, engine.Request{Tokens: randomTokens(n, cfg.VocabSize, uint64(i)), From: 1 + r.IntN(n-1)})
	}
	together, err := s.Score(background, reqs)
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range reqs {
		alone, err := s.Score(background, []engine.Request{q})
		if err != nil {
			t.Fatal(err)
		}
		logits, err := s.Logits(background, q.Tokens)
		if err != nil {
			t.Fatal(err)
		}
		for j, l := range alone[0].LogLikelihood {
			other := together[i].LogLikelihood[j]
			if l != other && (blas.Vector() || math.Abs(float64(l-other)) > 1e-5) {
				t.Errorf("request %d, token %d: %.9g alone, %.9g among others", i, j, l, other)
			}
			row := logits[(q.From+j-1)*cfg.VocabSize:][:cfg.VocabSize]
			sum, best := 0.0, 0
			for k, x := range row {
				sum += math.Exp(float64(x))
				if x > row[best] {
					best = k
				}
			}
			target := q.Tokens[q.From+j]
			if want := float64(row[target]) - math.Log(sum); math.Abs(float64(l)-want) > 1e-4 {
				t.Errorf("request %d, token %d: %g, want %g", i, j, l, want)
			}
			if alone[0].Greedy[j] != (best == int(target)) {
				t.Errorf("request %d, token %d: greedy is %v, the most likely token %d, the target %d", i, j, alone[0].Greedy[j], best, target)
			}
		}
	}
}

func TestBadBatches(t *testing.T) {
	cfg := small(t, "0_0", 1, model.RotaryAfter)
	tr, err := Open(0).Trainer(cfg, random(cfg, 1), engine.TrainOptions{Rows: 1, Length: 4})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]engine.Batch{
		"wrong length":   {Rows: 1, Length: 3, Tokens: make([]int32, 3), Targets: make([]int32, 3)},
		"token beyond":   {Rows: 1, Length: 4, Tokens: []int32{0, 1, 61, 2}, Targets: make([]int32, 4)},
		"target beyond":  {Rows: 1, Length: 4, Tokens: make([]int32, 4), Targets: []int32{0, 0, 99, 0}},
		"negative token": {Rows: 1, Length: 4, Tokens: []int32{0, -1, 0, 2}, Targets: make([]int32, 4)},
	} {
		if err := tr.Accumulate(background, b); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := tr.Update(background, 0.1); err == nil {
		t.Error("an update without a batch was accepted")
	}
}

// projected is a linear map of n inputs, by a loop.
func projected(w weightsOf, name string, input []float32, n int) []float32 {
	bias := w[name+".bias"]
	h, out := len(input)/n, make([]float32, n*len(bias))
	for i := range n {
		for o, b := range bias {
			sum := float64(b)
			for k := range h {
				sum += float64(w[name+".weight"][o*h+k]) * float64(input[i*h+k])
			}
			out[i*len(bias)+o] = float32(sum)
		}
	}
	return out
}

// TestCollector: keys and values that it shows are the projections of the
// inputs that it shows, and layers that borrow show none.
func TestCollector(t *testing.T) {
	cfg := small(t, "0_0_2_2/0_1_1_1", 2, model.RotaryAfter)
	w := random(cfg, 4)
	c, err := Open(0).Collector(cfg, w, 2, 7)
	if err != nil {
		t.Fatal(err)
	}
	visited := 0
	err = c.Collect(background, randomTokens(14, cfg.VocabSize, 1), func(a engine.Activations) error {
		if a.Layer != visited {
			t.Errorf("visit %d shows layer %d", visited, a.Layer)
		}
		visited++
		for _, part := range []struct {
			module string
			owns   bool
			shown  []float32
		}{{model.Key, cfg.Owner.Owns(a.Layer), a.Key}, {model.Value, cfg.ValueOwners().Owns(a.Layer), a.Value}} {
			name := model.LayerName(a.Layer, part.module)
			if (part.shown != nil) != part.owns {
				t.Errorf("%s: owned %v, shown %v", name, part.owns, part.shown != nil)
			} else if part.owns {
				enginetest.Compare(t, name, part.shown, projected(w, name, a.Input, 14), 1e-5)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if visited != cfg.Layers {
		t.Errorf("visited %d layers of %d", visited, cfg.Layers)
	}
}
