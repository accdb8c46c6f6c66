// Package enginetest holds engines to the golden results, which PyTorch made
// (../shared/golden/README.md): every engine's tests run the same checks.
package enginetest

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/convert"
	"mlkv/internal/engine"
	"mlkv/internal/golden"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// tolerance is the golden results' own statement of expected agreement in
// float32: relative to a tensor's largest magnitude, and for losses and norms.
const tolerance = 1e-4

// Plain compares the unconverted models' logits, losses and gradients. The
// engine that open makes computes in float32.
func Plain(t *testing.T, open func(t *testing.T) engine.Engine) {
	for _, path := range golden.Find(t, "*/reference.safetensors") {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			e := open(t)
			c := openCheckpoint(t, filepath.Dir(path))
			openReference(t, path).check(e, c.Config(), c)
		})
	}
}

// Shared converts each golden model as the authors do and compares the converted
// model's logits, loss and gradients, with keys shared after and before rotary. A
// file's name says how many layers and heads keep keys and values:
// mlkv-LAYERSxHEADS-post-rotary.safetensors.
func Shared(t *testing.T, open func(t *testing.T) engine.Engine) {
	name := regexp.MustCompile(`^mlkv-(\d+)x(\d+)-(pre|post)-rotary\.safetensors$`)
	for _, path := range golden.Find(t, "*/mlkv-*.safetensors") {
		t.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), func(t *testing.T) {
			e := open(t)
			m := name.FindStringSubmatch(filepath.Base(path))
			if m == nil {
				t.Fatal("expected a name like mlkv-2x1-post-rotary.safetensors")
			}
			layers, _ := strconv.Atoi(m[1])
			heads, _ := strconv.Atoi(m[2])
			out := filepath.Join(t.TempDir(), "converted")
			if err := convert.Run(t.Context(), convert.Options{
				Source: filepath.Dir(path), Output: out, KVLayers: layers, KVHeads: heads, Preset: "authors",
			}, ui.Streams{Out: io.Discard, Err: io.Discard}); err != nil {
				t.Fatal(err)
			}
			c := openCheckpoint(t, out)
			cfg := c.Config()
			if cfg.SharedKeyRotary != model.RotaryBefore {
				t.Errorf("the authors' preset shares keys %s rotary", cfg.SharedKeyRotary)
			}
			cfg.SharedKeyRotary = map[string]model.KeyRotary{"pre": model.RotaryBefore, "post": model.RotaryAfter}[m[3]]
			openReference(t, path).check(e, cfg, c)
		})
	}
}

// AdamW repeats ten recorded steps of PyTorch's AdamW: losses and norms hold
// forward pass, gradients and update to them.
func AdamW(t *testing.T, open func(t *testing.T) engine.Engine) {
	for _, path := range golden.Find(t, "*/train.json") {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			e := open(t)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var run struct {
				Betas       []float64
				Eps, Clip   float64
				WeightDecay float64 `json:"weight_decay"`
				Steps       []struct {
					LR, Loss float64
					GradNorm float64   `json:"grad_norm"`
					Tokens   [][]int32 `json:"input_ids"`
				}
			}
			if err := json.Unmarshal(data, &run); err != nil {
				t.Fatal(err)
			}
			c := openCheckpoint(t, filepath.Dir(path))
			first := run.Steps[0].Tokens
			trainer := newTrainer(t, e, c.Config(), c, engine.TrainOptions{
				Rows: len(first), Length: len(first[0]),
				Optimizer: engine.AdamW{Beta1: run.Betas[0], Beta2: run.Betas[1], Eps: run.Eps,
					WeightDecay: run.WeightDecay, Decay: engine.DecayAll, Clip: run.Clip},
			})
			for i, s := range run.Steps {
				got := step(t, trainer, nextTokens(s.Tokens), s.LR)
				if d := math.Abs(got.Loss - s.Loss); !(d <= tolerance) {
					t.Errorf("step %d: loss %.6f, want %.6f", i, got.Loss, s.Loss)
				}
				if d := math.Abs(got.GradNorm - s.GradNorm); !(d <= tolerance*max(1, s.GradNorm)) {
					t.Errorf("step %d: gradient norm %.6f, want %.6f", i, got.GradNorm, s.GradNorm)
				}
			}
		})
	}
}

// reference is a file of golden tensors.
type reference struct {
	t *testing.T
	*checkpoint.File
}

func openReference(t *testing.T, path string) reference {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return reference{t, f}
}

func (r reference) floats(name string) []float32 {
	r.t.Helper()
	v, err := r.Float32(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// rows are the reference's tokens.
func (r reference) rows() [][]int32 {
	r.t.Helper()
	x, err := r.Tensor("input_ids")
	if err != nil {
		r.t.Fatal(err)
	}
	ids, err := x.Int32()
	if err != nil {
		r.t.Fatal(err)
	}
	var rows [][]int32
	for length := x.Shape[1]; len(ids) > 0; ids = ids[length:] {
		rows = append(rows, ids[:length])
	}
	return rows
}

// check compares logits, loss and every gradient in the file.
func (r reference) check(e engine.Engine, cfg model.Config, w engine.Weights) {
	t := r.t
	t.Helper()
	rows := r.rows()
	scorer, err := e.Scorer(cfg, w)
	if err != nil {
		t.Fatal(err)
	}
	defer scorer.Close()
	var logits []float32
	for _, row := range rows {
		l, err := scorer.Logits(t.Context(), row)
		if err != nil {
			t.Fatal(err)
		}
		logits = append(logits, l...)
	}
	Compare(t, "logits", logits, r.floats("logits"), tolerance)

	// With beta1 = 0 the first moment is the mean gradient.
	trainer := newTrainer(t, e, cfg, w, engine.TrainOptions{Rows: len(rows), Length: len(rows[0]),
		Optimizer: engine.AdamW{Beta2: 0.5, Eps: 1e-8, Decay: engine.DecayMatrices}})
	batch, want := nextTokens(rows), float64(r.floats("loss")[0])
	sum, counted, err := trainer.Loss(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	if loss := sum / float64(counted); !(math.Abs(loss-want) <= tolerance) {
		t.Errorf("loss %v, want %v", loss, want)
	}
	if loss := step(t, trainer, batch, 0).Loss; !(math.Abs(loss-want) <= tolerance) {
		t.Errorf("loss with gradients %v, want %v", loss, want)
	}
	gradients := arrays{}
	for _, p := range cfg.Params() {
		gradients[p.Name] = make([]float32, p.Size())
		if err := trainer.Read(p.Name, engine.SlotFirst, gradients[p.Name]); err != nil {
			t.Fatal(err)
		}
	}
	r.compareGradients(cfg, gradients)
}

// compareGradients compares every gradient in the file, in the form of a
// checkpoint.
func (r reference) compareGradients(cfg model.Config, gradients arrays) {
	r.t.Helper()
	const prefix = "grad."
	left := map[string]bool{}
	for _, name := range r.Names() {
		if strings.HasPrefix(name, prefix) {
			left[name] = true
		}
	}
	if len(left) == 0 {
		r.t.Errorf("%s: expected gradients, found none", r.Path())
	}
	for _, entry := range checkpoint.Layout(cfg, checkpoint.HuggingFace, gradients, checkpoint.F32) {
		name := prefix + entry.Name
		if !left[name] {
			continue
		}
		delete(left, name)
		x, err := entry.Source()
		if err != nil {
			r.t.Fatal(err)
		}
		got, err := x.Float32()
		if err != nil {
			r.t.Fatal(err)
		}
		Compare(r.t, name, got, r.floats(name), tolerance)
	}
	for name := range left {
		r.t.Errorf("%s: %s was not compared", r.Path(), name)
	}
}

// Compare fails if got departs from want by more than tolerance of want's
// largest magnitude, and names the worst place.
func Compare(t testing.TB, what string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d elements, want %d", what, len(got), len(want))
		return
	}
	largest, worst, at := 0.0, 0.0, 0
	for i := range want {
		largest = max(largest, math.Abs(float64(want[i])))
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= tolerance*largest) {
		t.Errorf("%s: element %d is %g, want %g; off by %.3g of the largest magnitude %g, allowed %g",
			what, at, got[at], want[at], worst/largest, largest, tolerance)
	}
}

// arrays are weights or gradients by parameter.
type arrays map[string][]float32

func (a arrays) Float32(name string) ([]float32, error) { return a[name], nil }

func openCheckpoint(t *testing.T, dir string) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newTrainer(t *testing.T, e engine.Engine, cfg model.Config, w engine.Weights, o engine.TrainOptions) engine.Trainer {
	t.Helper()
	trainer, err := e.Trainer(cfg, w, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { trainer.Close() })
	return trainer
}

func step(t *testing.T, trainer engine.Trainer, b engine.Batch, rate float64) engine.Step {
	t.Helper()
	if err := trainer.Accumulate(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	s, err := trainer.Update(t.Context(), rate)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// nextTokens is a batch in which every token but a row's first is predicted.
func nextTokens(rows [][]int32) engine.Batch {
	b := engine.Batch{Rows: len(rows), Length: len(rows[0])}
	for _, row := range rows {
		b.Tokens = append(b.Tokens, row...)
		b.Targets = append(append(b.Targets, row[1:]...), engine.Ignore)
	}
	return b
}
