package cuda

import (
	"math"
	"math/rand/v2"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// testWeights are random weights of a model.
type testWeights map[string][]float32

func (w testWeights) Float32(name string) ([]float32, error) { return w[name], nil }

func randomWeights(cfg model.Config, seed uint64) testWeights {
	r := rand.New(rand.NewPCG(seed, 1))
	w := testWeights{}
	for _, p := range cfg.Params() {
		v := make([]float32, p.Size())
		for i := range v {
			v[i] = float32(r.NormFloat64()) * 0.2
			if p.Kind == model.Norm && i%2 == 0 {
				v[i]++
			}
		}
		w[p.Name] = v
	}
	return w
}

// scaleDown makes activations of a trained model's size.
func scaleDown(w testWeights, cfg model.Config) {
	for _, p := range cfg.Params() {
		if p.Kind == model.Norm {
			continue
		}
		for i := range w[p.Name] {
			w[p.Name][i] *= 0.3
		}
	}
}

// testModels are the shapes that a program depends on.
func testModels(t testing.TB) map[string]model.Config {
	t.Helper()
	owners := func(cfg model.Config, s string) model.Config {
		m, err := model.ParseOwnerMap(s)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Owner = m
		return cfg
	}
	plain := model.Plain(40, 32, 3, 4)
	list := map[string]model.Config{"plain": plain}
	c := plain
	c.ParallelResidual = false
	list["sequential"] = c
	c = plain
	c.KVHeads = 2
	list["gqa"] = c
	c.KVHeads = 1
	list["shared"] = owners(c, "0_0_0")
	list["irregular"] = owners(plain, "0_1_0")
	c = owners(plain, "0_0_2")
	c.SharedKeyRotary = model.RotaryBefore
	list["before rotary"] = c
	c = owners(plain, "0_0_0")
	c.SharedKeyRotary = model.RotaryBefore
	list["three before rotary"] = c
	c = plain
	c.TiedEmbeddings = true
	list["tied"] = c
	c = owners(plain, "0_0_2")
	c.KVIntermediateSize = 24
	list["key value mlp"] = c
	c = model.Plain(40, 64, 3, 1)
	list["head size 64"] = c
	c.KVHeads = 1
	list["shared, head size 64"] = owners(c, "0_0_0")
	c.SharedKeyRotary = model.RotaryBefore
	list["before rotary, head size 64"] = owners(c, "0_0_2")
	c = plain
	c.RotaryPct = 0
	list["no rotary"] = c
	c = owners(plain, "0_0_0")
	c.KVHeads, c.ValueOwner = 2, model.OwnerMap{0, 1, 1}
	list["separate owners"] = c
	c = owners(plain, "0_0_2")
	c.KVHeads, c.ValueOwner, c.SharedKeyRotary = 1, model.OwnerMap{0, 0, 0}, model.RotaryBefore
	list["separate owners, before rotary"] = c
	return list
}

// batch is random tokens with some positions ignored.
func testBatch(cfg model.Config, rows, length int, seed uint64) engine.Batch {
	r := rand.New(rand.NewPCG(seed, 2))
	b := engine.Batch{Rows: rows, Length: length}
	for i := range rows * length {
		b.Tokens = append(b.Tokens, int32(r.IntN(cfg.VocabSize)))
		target := int32(r.IntN(cfg.VocabSize))
		if i%5 == 4 {
			target = engine.Ignore
		}
		b.Targets = append(b.Targets, target)
	}
	return b
}

// compileFor traces a graph; stage is "traced", "fused", or what is computed again
// after fusing.
func compileFor(t testing.TB, cfg model.Config, o graph.Options, stage string) *program {
	t.Helper()
	g, err := graph.Build(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := trace(g)
	if err != nil {
		t.Fatal(err)
	}
	if stage != "traced" {
		fuse(p, cfg, func([]string) bool { return stage == "fused" })
		recompute(p, map[string]Recompute{"mlp": RecomputeMLP, "layer": RecomputeLayer}[stage])
	}
	return p
}

// TestProgramComputesTheGradients compares loss and every gradient of two
// micro-batches with the CPU engine's, before and after fusing, and where results
// are computed again.
func TestProgramComputesTheGradients(t *testing.T) {
	const rows, length = 2, 6
	for name, cfg := range testModels(t) {
		for _, stage := range []string{"traced", "fused", "mlp", "layer"} {
			t.Run(name+" "+stage, func(t *testing.T) {
				w := randomWeights(cfg, 7)
				p := compileFor(t, cfg, graph.Options{Rows: rows, Length: length, Output: graph.Gradients}, stage)
				x := newMachine(cfg, w, p)
				step, want := firstMoments(t, cpu.Open(0), cfg, w, engine.TrainOptions{Rows: rows, Length: length})
				reference := step.Loss * float64(step.Tokens)
				loss := 0.0
				x.clear()
				for i := range uint64(2) {
					b := testBatch(cfg, rows, length, i)
					x.ints[p.tokens], x.ints[p.targets] = b.Tokens, b.Targets
					x.run(i == 0)
					loss += float64(x.read(p.losses).F32[0])
				}
				if math.Abs(loss-reference) > 1e-4*reference {
					t.Errorf("loss %v, want %v", loss, reference)
				}
				for _, param := range cfg.Params() {
					compare(t, param.Name, x.gradient(param), want[param.Name])
				}
			})
		}
	}
}

// firstMoments makes one step of the two test batches that changes nothing and
// returns its result and the summed gradients: with beta1 = 0 the first moment is
// the mean gradient.
func firstMoments(t testing.TB, e engine.Engine, cfg model.Config, w engine.Weights, o engine.TrainOptions) (engine.Step, map[string][]float32) {
	t.Helper()
	o.Optimizer = engine.AdamW{Beta2: 0.5, Eps: 1e-8, Decay: engine.DecayMatrices}
	trainer, err := e.Trainer(cfg, w, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := trainer.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i := range uint64(2) {
		if err := trainer.Accumulate(t.Context(), testBatch(cfg, o.Rows, o.Length, i)); err != nil {
			t.Fatal(err)
		}
	}
	step, err := trainer.Update(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	grads := map[string][]float32{}
	for _, param := range cfg.Params() {
		g := make([]float32, param.Size())
		if err := trainer.Read(param.Name, engine.SlotFirst, g); err != nil {
			t.Fatal(err)
		}
		for i := range g {
			g[i] *= float32(step.Tokens)
		}
		grads[param.Name] = g
	}
	return step, grads
}

func compare(t testing.TB, name string, got, want []float32) {
	t.Helper()
	top, worst, at := 0.0, 0.0, 0
	for i := range want {
		top = max(top, math.Abs(float64(want[i])))
		if d := math.Abs(float64(got[i] - want[i])); d > worst || math.IsNaN(d) {
			worst, at = d, i
		}
	}
	if !(worst <= 2e-5*top+1e-6) {
		t.Errorf("%s: element %d is %v, want %v; the largest magnitude is %v", name, at, got[at], want[at], top)
	}
}
