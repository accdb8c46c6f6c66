package cuda

import (
	"math"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// testDistill is a teacher that is deeper than the models of testModels and has
// keys and values in every layer.
func testDistill(vocab, hidden, heads int) *engine.Distill {
	teacher := model.Plain(vocab, hidden, 4, heads)
	w := randomWeights(teacher, 11)
	scaleDown(w, teacher)
	return &engine.Distill{Weight: 0.4, Temperature: 2, Teacher: teacher, Weights: w}
}

// TestDistillProgram compares losses and every gradient of two micro-batches
// beside a teacher with the CPU engine's.
func TestDistillProgram(t *testing.T) {
	const rows, length = 2, 6
	for name, cfg := range testModels(t) {
		for _, stage := range []string{"traced", "fused", "mlp", "layer"} {
			t.Run(name+" "+stage, func(t *testing.T) {
				w, d := randomWeights(cfg, 7), testDistill(cfg.VocabSize, 16, 2)
				p := compileFor(t, cfg, graph.Options{Rows: rows, Length: length, Output: graph.Gradients,
					Distill: &graph.Distill{Teacher: d.Teacher, Weight: d.Weight, Temperature: d.Temperature}}, stage)
				x := newMachine(cfg, w, p)
				x.teach(d)
				x.clear()
				ce, kl := 0.0, 0.0
				for i := range uint64(2) {
					b := testBatch(cfg, rows, length, i)
					x.ints[p.tokens], x.ints[p.targets] = b.Tokens, b.Targets
					x.run(i == 0)
					ce += float64(x.read(p.losses).F32[0])
					kl += float64(x.read(p.divergence).F32[0])
				}
				step, want := firstMoments(t, cpu.Open(0), cfg, w, engine.TrainOptions{Rows: rows, Length: length, Distill: d})
				n := float64(step.Tokens)
				if math.Abs(ce/n-step.CrossEntropy) > 1e-4 || math.Abs(kl/n-step.Divergence) > 1e-4 {
					t.Errorf("cross-entropy %v and divergence %v, want %v and %v", ce/n, kl/n, step.CrossEntropy, step.Divergence)
				}
				for _, param := range cfg.Params() {
					compare(t, param.Name, x.gradient(param), want[param.Name])
				}
			})
		}
	}
}

// teach gives the machine the teacher's weights.
func (x *machine) teach(d *engine.Distill) {
	x.taught = placeConstants(d.Teacher, x.p.joinedTaught, sizes{4})
	x.others = make([]float32, x.taught.size/4)
	for name, v := range d.Weights.(testWeights) {
		copy(x.at(&matrix{role: weight, taught: true, params: []string{name}}), v)
	}
}

// TestTeacherMemory: a teacher's activations make room for the model's. Beside
// its last ones and its logits it adds nothing to the arena.
func TestTeacherMemory(t *testing.T) {
	const rows, length = 4, 64
	cfg := testModels(t)["plain"]
	size := func(d *graph.Distill) int64 {
		p := compileFor(t, cfg, graph.Options{Rows: rows, Length: length, Output: graph.Gradients, Distill: d}, "fused")
		needScratch(p, sizes{2}, gpu.Info{Major: 9, SMs: 1})
		return place(p, sizes{2}).size
	}
	teacher := model.Plain(cfg.VocabSize, cfg.HiddenSize, cfg.Layers, cfg.Heads)
	alone, beside := size(nil), size(&graph.Distill{Teacher: teacher, Weight: 1, Temperature: 1})
	tokens := int64(rows * length)
	if most := 2*tokens*int64(teacher.HiddenSize+cfg.VocabSize) + 4*tokens + 3*alignment; beside-alone > most {
		t.Errorf("a teacher adds %d bytes to %d, expected at most %d", beside-alone, alone, most)
	}
}

// TestConstants: every parameter has room of its own, and those that kernels
// read in float32 a second place.
func TestConstants(t *testing.T) {
	cfg := testModels(t)["gqa"]
	for _, s := range []sizes{{2}, {4}} {
		c := placeConstants(cfg, [][]string{{model.LayerName(0, model.Query) + ".weight", model.LayerName(0, model.Key) + ".weight"}}, s)
		owner := make([]string, c.size)
		claim := func(name string, at, size int64) {
			for i := at; i < at+size; i++ {
				if owner[i] != "" {
					t.Fatalf("%s lies over %s", name, owner[i])
				}
				owner[i] = name
			}
		}
		for _, p := range cfg.Params() {
			m := &matrix{role: weight, params: []string{p.Name}}
			claim(p.Name, c.offset(m), int64(p.Size())*s.activation)
			if len(p.Shape) == 1 && s.activation != 4 {
				m.role = master
				claim(p.Name+" in float32", c.offset(m), int64(p.Size())*4)
			}
		}
	}
}
