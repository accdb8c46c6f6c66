package cpu

import (
	"fmt"
	"math"
	"testing"
	"time"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/engine/enginetest"
	"mlkv/internal/model"
)

var distillOptimizer = engine.AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.01, Decay: engine.DecayMatrices, Clip: 1}

// distillBatch is a batch with some ignored positions.
func distillBatch(cfg model.Config, rows, length int, seed uint64) engine.Batch {
	b := engine.Batch{Rows: rows, Length: length,
		Tokens: randomTokens(rows*length, cfg.VocabSize, seed), Targets: randomTokens(rows*length, cfg.VocabSize, seed+100)}
	for i := range 5 {
		b.Targets[3*i] = engine.Ignore
	}
	return b
}

func newDistiller(t testing.TB, cfg model.Config, w engine.Weights, rows, length int, d *engine.Distill) *trainer {
	t.Helper()
	tr, err := Open(0).Trainer(cfg, w, engine.TrainOptions{Rows: rows, Length: length, Optimizer: distillOptimizer, Distill: d})
	if err != nil {
		t.Fatal(err)
	}
	return tr.(*trainer)
}

func accumulate(t testing.TB, tr engine.Trainer, b engine.Batch) {
	t.Helper()
	if err := tr.Accumulate(background, b); err != nil {
		t.Fatal(err)
	}
}

func update(t testing.TB, tr engine.Trainer, lr float64) engine.Step {
	t.Helper()
	s, err := tr.Update(background, lr)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trained are all weights and moments, one after another.
func trained(t testing.TB, tr *trainer) []float32 {
	t.Helper()
	var all []float32
	for _, slot := range engine.Slots {
		for _, p := range tr.params {
			all = append(all, tr.slots[slot][p.Name]...)
		}
	}
	return all
}

// TestDistillLosses compares a step's losses with those computed from the
// logits that the scorer gives of model and teacher.
func TestDistillLosses(t *testing.T) {
	cfg, teacher := small(t, "0_0_2_2", 2, model.RotaryBefore), model.Plain(61, 32, 3, 4)
	w, tw := random(cfg, 3), random(teacher, 4)
	const rows, length, temperature, weight = 2, 9, 2.0, 0.3
	b := distillBatch(cfg, rows, length, 5)
	tr := newDistiller(t, cfg, w, rows, length, &engine.Distill{Weight: weight, Temperature: temperature, Teacher: teacher, Weights: tw})
	accumulate(t, tr, b)
	got := update(t, tr, 0)

	var ce, kl, counted float64
	for r := range rows {
		var logits [2][]float32
		for i, m := range []struct {
			cfg model.Config
			w   engine.Weights
		}{{cfg, w}, {teacher, tw}} {
			s, err := Open(0).Scorer(m.cfg, m.w)
			if err != nil {
				t.Fatal(err)
			}
			if logits[i], err = s.Logits(background, b.Tokens[r*length:(r+1)*length]); err != nil {
				t.Fatal(err)
			}
		}
		for i := range length {
			target := b.Targets[r*length+i]
			if target == engine.Ignore {
				continue
			}
			counted++
			at := i * cfg.VocabSize
			student, other := logits[0][at:at+cfg.VocabSize], logits[1][at:at+cfg.VocabSize]
			ce -= logProbability(student, int(target), 1)
			for j := range student {
				p := logProbability(other, j, temperature)
				kl += math.Exp(p) * (p - logProbability(student, j, temperature))
			}
		}
	}
	ce, kl = ce/counted, kl/counted
	if got.Tokens != int(counted) || math.Abs(got.CrossEntropy-ce) > 1e-4 || math.Abs(got.Divergence-kl) > 1e-4 ||
		math.Abs(got.Loss-((1-weight)*ce+weight*temperature*temperature*kl)) > 1e-4 {
		t.Errorf("step %+v, expected cross-entropy %.6f and divergence %.6f of %g positions", got, ce, kl, counted)
	}
	// Held-out loss stays the cross-entropy.
	sum, n, err := tr.Loss(background, b)
	if err != nil || n != int(counted) || math.Abs(sum/counted-ce) > 1e-4 {
		t.Errorf("loss %.6f of %d positions, %v; expected %.6f", sum/counted, n, err, ce)
	}
}

func logProbability(logits []float32, at int, temperature float64) float64 {
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) / temperature)
	}
	return float64(logits[at])/temperature - math.Log(sum)
}

// TestDistillOfNoWeight: with weight 0 a teacher changes no bit of the
// training.
func TestDistillOfNoWeight(t *testing.T) {
	cfg, teacher := small(t, "0_0_2_2", 2, model.RotaryAfter), model.Plain(61, 32, 3, 4)
	w := random(cfg, 3)
	run := func(d *engine.Distill) (steps []engine.Step, state []float32) {
		tr := newDistiller(t, cfg, w, 2, 9, d)
		for s := range uint64(3) {
			accumulate(t, tr, distillBatch(cfg, 2, 9, 2*s))
			accumulate(t, tr, distillBatch(cfg, 2, 9, 2*s+1))
			steps = append(steps, update(t, tr, 0.01))
		}
		return steps, trained(t, tr)
	}
	wantSteps, want := run(nil)
	for _, temperature := range []float64{1, 2} {
		steps, got := run(&engine.Distill{Weight: 0, Temperature: temperature, Teacher: teacher, Weights: random(teacher, 4)})
		for i := range steps {
			if steps[i].Divergence <= 0 {
				t.Errorf("step %d: divergence %g from a random teacher", i, steps[i].Divergence)
			}
			steps[i].Divergence = 0
			if steps[i] != wantSteps[i] {
				t.Errorf("temperature %g, step %+v, without a teacher %+v", temperature, steps[i], wantSteps[i])
			}
		}
		same(t, fmt.Sprintf("temperature %g", temperature), got, want)
	}
}

func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: element %d is %g, expected %g", what, i, got[i], want[i])
		}
	}
}

// TestDistillOfItself: the model as its own teacher has no divergence, and the
// gradient is the cross-entropy's share.
func TestDistillOfItself(t *testing.T) {
	cfg := small(t, "0_0_2_2", 2, model.RotaryBefore)
	w, b := random(cfg, 3), distillBatch(cfg, 2, 9, 1)
	plain := newDistiller(t, cfg, w, 2, 9, nil)
	accumulate(t, plain, b)
	for _, temperature := range []float64{1, 3} {
		const weight = 0.4
		tr := newDistiller(t, cfg, w, 2, 9, &engine.Distill{Weight: weight, Temperature: temperature, Teacher: cfg, Weights: w})
		accumulate(t, tr, b)
		for _, p := range tr.params {
			want := append([]float32(nil), plain.gradient(p.Name)...)
			for i := range want {
				want[i] *= 1 - weight
			}
			enginetest.Compare(t, "gradient of "+p.Name, tr.gradient(p.Name), want, 1e-4)
		}
		if s := update(t, tr, 0); math.Abs(s.Divergence) > 1e-6 || math.Abs(s.Loss-(1-weight)*s.CrossEntropy) > 1e-5 {
			t.Errorf("temperature %g: step %+v, expected no divergence", temperature, s)
		}
	}
}

// TestDistillGradient checks the derivative through the whole model by
// differences of the step's loss along the gradient.
func TestDistillGradient(t *testing.T) {
	cfg, teacher := small(t, "0_0_2_2", 2, model.RotaryAfter), model.Plain(61, 32, 3, 4)
	w, tw, b := random(cfg, 3), random(teacher, 4), distillBatch(cfg, 2, 9, 1)
	for _, d := range []engine.Distill{{Weight: 1, Temperature: 1}, {Weight: 0.5, Temperature: 2}} {
		d.Teacher, d.Weights = teacher, tw
		tr := newDistiller(t, cfg, w, 2, 9, &d)
		loss := func() float64 {
			tr.Discard()
			accumulate(t, tr, b)
			return tr.sums.objective
		}
		loss()
		grads := weightsOf{}
		for _, p := range tr.params {
			grads[p.Name] = append([]float32(nil), tr.gradient(p.Name)...)
		}
		for _, p := range tr.params {
			g, x := grads[p.Name], tr.slots[engine.SlotWeight][p.Name]
			norm := 0.0
			for _, v := range g {
				norm += float64(v) * float64(v)
			}
			if norm = math.Sqrt(norm); norm < 1 {
				continue // too flat for differences in float32
			}
			const h = 0.01
			at := func(step float64) float64 {
				for i, v := range w[p.Name] {
					x[i] = v + float32(step*float64(g[i])/norm)
				}
				defer copy(x, w[p.Name])
				return loss()
			}
			if got := (at(h) - at(-h)) / (2 * h); math.Abs(got-norm) > 0.02*norm {
				t.Errorf("weight %g: along the gradient of %s the loss rises by %.5g, expected its norm %.5g", d.Weight, p.Name, got, norm)
			}
		}
	}
}

// TestDistillAccumulation: several micro-batches make the step of one large
// batch, and the number of threads changes no bit.
func TestDistillAccumulation(t *testing.T) {
	defer blas.SetThreads(0)
	cfg, teacher := small(t, "0_0_2_2", 2, model.RotaryAfter), model.Plain(61, 32, 3, 4)
	w, tw := random(cfg, 9), random(teacher, 4)
	whole := distillBatch(cfg, 6, 8, 3)
	run := func(rows, threads int) (engine.Step, []float32) {
		tr := newDistiller(t, cfg, w, rows, 8, &engine.Distill{Weight: 0.5, Temperature: 2, Teacher: teacher, Weights: tw})
		blas.SetThreads(threads)
		for lo := 0; lo < 6; lo += rows {
			accumulate(t, tr, engine.Batch{Rows: rows, Length: 8, Tokens: whole.Tokens[lo*8 : (lo+rows)*8], Targets: whole.Targets[lo*8 : (lo+rows)*8]})
		}
		s := update(t, tr, 0.01)
		var moments []float32
		for _, p := range tr.params {
			moments = append(moments, tr.slots[engine.SlotFirst][p.Name]...)
		}
		return s, moments
	}
	want, state := run(6, 1)
	for _, rows := range []int{1, 2} {
		got, moments := run(rows, 0)
		if math.Abs(got.Loss-want.Loss) > 1e-5 || math.Abs(got.CrossEntropy-want.CrossEntropy) > 1e-5 || math.Abs(got.Divergence-want.Divergence) > 1e-5 || got.Tokens != want.Tokens {
			t.Errorf("%d rows at a time: step %+v, in one batch %+v", rows, got, want)
		}
		enginetest.Compare(t, "first moments", moments, state, 1e-4)
	}
	_, threaded := run(6, 3)
	same(t, "three threads", threaded, state)
}

// TestDistillLearns: a student that is trained on the divergence alone comes
// closer to its teacher than one that is trained on random targets.
func TestDistillLearns(t *testing.T) {
	teacher := small(t, "0_1_2_3", 6, model.RotaryAfter)
	cfg := small(t, "0_0_2_2", 2, model.RotaryAfter)
	tw, w := random(teacher, 4), random(cfg, 3)
	run := func(weight float64) (first, last engine.Step) {
		tr := newDistiller(t, cfg, w, 4, 16, &engine.Distill{Weight: weight, Temperature: 1, Teacher: teacher, Weights: tw})
		for s := range uint64(60) {
			accumulate(t, tr, distillBatch(cfg, 4, 16, s))
			last = update(t, tr, 3e-3)
			if s == 0 {
				first = last
			}
		}
		return first, last
	}
	first, distilled := run(1)
	_, plain := run(0)
	t.Logf("divergence %.3f before, %.3f after distillation, %.3f without", first.Divergence, distilled.Divergence, plain.Divergence)
	if !(distilled.Divergence < 0.6*first.Divergence && distilled.Divergence < 0.8*plain.Divergence) {
		t.Errorf("divergence %.3f before, %.3f after distillation, %.3f after training on targets alone", first.Divergence, distilled.Divergence, plain.Divergence)
	}
}

// TestDistillMemory: a teacher costs its weights and its logits, and no
// optimizer or gradients; what is planned is what is held.
func TestDistillMemory(t *testing.T) {
	cfg, teacher := small(t, "0_0_2_2", 2, model.RotaryAfter), small(t, "0_1_2_3", 6, model.RotaryAfter)
	d := &engine.Distill{Weight: 0.5, Temperature: 1, Teacher: teacher, Weights: random(teacher, 1)}
	plain := newDistiller(t, cfg, random(cfg, 1), 2, 9, nil).Memory()
	tr := newDistiller(t, cfg, random(cfg, 1), 2, 9, d)
	held := tr.Memory()
	if want := int64(4 * teacher.Parameters()); held.Teacher != want || plain.Teacher != 0 {
		t.Errorf("teacher holds %d bytes, expected %d; without one %d", held.Teacher, want, plain.Teacher)
	}
	if held.Optimizer != plain.Optimizer || held.Weights != plain.Weights || held.Workspace != 2*plain.Workspace {
		t.Errorf("memory %+v, without a teacher %+v", held, plain)
	}
	// The teacher's activations lie where the model's come later, so that
	// only its last ones are added.
	if more := held.Activations - plain.Activations; more > int64(4*(2*9*teacher.HiddenSize+64)) {
		t.Errorf("a teacher adds %d bytes of activations to %d", more, plain.Activations)
	}
	planned, err := Open(0).PlanTrainer(cfg, engine.TrainOptions{Rows: 2, Length: 9, Distill: &engine.Distill{Weight: 0.5, Temperature: 1, Teacher: teacher}})
	if err != nil {
		t.Fatal(err)
	}
	planned.Gradients = held.Gradients // of steps with several micro-batches
	if planned != held {
		t.Errorf("planned %+v, held %+v", planned, held)
	}
	teacher.VocabSize++
	d.Teacher, d.Weights = teacher, random(teacher, 1)
	if _, err := Open(0).Trainer(cfg, random(cfg, 1), engine.TrainOptions{Rows: 2, Length: 9, Distill: d}); err == nil {
		t.Error("a teacher of another vocabulary was accepted")
	}
}

// BenchmarkDistill times steps of the Pythia-70M shape (six layers that share
// the keys and values of three) without and with a plain teacher of the same
// shape, in turn, and reports the ratio of their times.
func BenchmarkDistill(b *testing.B) {
	teacher, err := model.Sized("pythia-70m")
	if err != nil {
		b.Fatal(err)
	}
	cfg := teacher
	if cfg.Owner, err = model.ContiguousOwners(cfg.Layers, 3); err != nil {
		b.Fatal(err)
	}
	const rows, length = 1, 512
	batch := distillBatch(cfg, rows, length, 1)
	w, tw := random(cfg, 1), random(teacher, 2)
	type timed struct {
		tr   *trainer
		best time.Duration
	}
	var runs []*timed
	for _, d := range []*engine.Distill{nil, {Weight: 0.5, Temperature: 1}, {Weight: 0.5, Temperature: 2}} {
		if d != nil {
			d.Teacher, d.Weights = teacher, tw
		}
		runs = append(runs, &timed{newDistiller(b, cfg, w, rows, length, d), time.Hour})
	}
	for b.Loop() {
		for _, r := range runs {
			start := time.Now()
			accumulate(b, r.tr, batch)
			update(b, r.tr, 1e-4)
			r.best = min(r.best, time.Since(start))
		}
	}
	b.ReportMetric(runs[0].best.Seconds(), "s/plain")
	b.ReportMetric(runs[1].best.Seconds()/runs[0].best.Seconds(), "x-distill")
	b.ReportMetric(runs[2].best.Seconds()/runs[0].best.Seconds(), "x-distill-T2")
}
