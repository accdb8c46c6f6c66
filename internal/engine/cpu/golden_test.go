package cpu

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/convert"
	"mlkv/internal/engine"
	"mlkv/internal/golden"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// The golden results' own statement of expected agreement: relative to a
// tensor's largest magnitude, and for losses and norms.
const tolerance = 1e-4

func openCheckpoint(t *testing.T, dir string) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
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

func (r reference) floats(name string) ([]float32, []int) {
	r.t.Helper()
	x, err := r.Tensor(name)
	if err != nil {
		r.t.Fatal(err)
	}
	data, err := x.Float32()
	if err != nil {
		r.t.Fatal(err)
	}
	return data, x.Shape
}

func (r reference) tokens() (ids []int32, rows, length int) {
	r.t.Helper()
	x, err := r.Tensor("input_ids")
	if err != nil {
		r.t.Fatal(err)
	}
	if ids, err = x.Int32(); err != nil {
		r.t.Fatal(err)
	}
	return ids, x.Shape[0], x.Shape[1]
}

// compare fails if got departs from want by more than tol of want's largest
// magnitude, and names the worst place.
func compare(t *testing.T, what string, got, want []float32, tol float64) {
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
	if !(worst <= tol*largest) {
		t.Errorf("%s: element %d is %g, want %g; off by %.3g of the largest magnitude %g, allowed %g",
			what, at, got[at], want[at], worst/largest, largest, tol)
	}
}

// batchOf is a whole golden batch: targets are the tokens that follow.
func batchOf(ids []int32, rows, length int) engine.Batch {
	b := engine.Batch{Rows: rows, Length: length, Tokens: ids}
	for i := range ids {
		if i%length == length-1 {
			b.Targets = append(b.Targets, engine.Ignore)
		} else {
			b.Targets = append(b.Targets, ids[i+1])
		}
	}
	return b
}

// weightsOf is a set of arrays by parameter.
type weightsOf map[string][]float32

func (w weightsOf) Float32(name string) ([]float32, error) { return w[name], nil }

// checkReference compares logits, loss and whatever gradients a file holds.
func checkReference(t *testing.T, cfg model.Config, w engine.Weights, ref reference) {
	t.Helper()
	ids, rows, length := ref.tokens()
	scorer, err := Open(0).Scorer(cfg, w)
	if err != nil {
		t.Fatal(err)
	}
	var logits []float32
	for r := range rows {
		l, err := scorer.Logits(context.Background(), ids[r*length:(r+1)*length])
		if err != nil {
			t.Fatal(err)
		}
		logits = append(logits, l...)
	}
	want, _ := ref.floats("logits")
	compare(t, "logits", logits, want, tolerance)

	tr, err := Open(0).Trainer(cfg, w, engine.TrainOptions{Rows: rows, Length: length})
	if err != nil {
		t.Fatal(err)
	}
	trainer := tr.(*trainer)
	b := batchOf(ids, rows, length)
	sum, counted, err := trainer.Loss(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	loss, _ := ref.floats("loss")
	if d := math.Abs(sum/float64(counted) - float64(loss[0])); !(d <= tolerance) {
		t.Errorf("loss: %g, want %g", sum/float64(counted), loss[0])
	}
	if err := trainer.Accumulate(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	if d := math.Abs(trainer.sums.objective - sum); !(d <= 1e-5*sum) {
		t.Errorf("loss with gradients: %g, without %g", trainer.sums.objective, sum)
	}
	grads := weightsOf{}
	for _, p := range cfg.Params() {
		g := append([]float32(nil), trainer.gradient(p.Name)...)
		for i := range g {
			g[i] /= float32(counted)
		}
		grads[p.Name] = g
	}
	compared := 0
	for _, e := range checkpoint.Layout(cfg, checkpoint.HuggingFace, grads, checkpoint.F32) {
		name := "grad." + e.Name
		if _, err := ref.Tensor(name); err != nil {
			continue
		}
		x, err := e.Source()
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Float32()
		if err != nil {
			t.Fatal(err)
		}
		want, _ := ref.floats(name)
		compare(t, name, got, want, tolerance)
		compared++
	}
	all := 0
	for _, n := range ref.Names() {
		if len(n) > 5 && n[:5] == "grad." {
			all++
		}
	}
	if compared != all {
		t.Errorf("compared %d gradients of %d in %s", compared, all, ref.Path())
	}
}

func TestGoldenPlain(t *testing.T) {
	for _, path := range golden.Find(t, "*/reference.safetensors") {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			c := openCheckpoint(t, filepath.Dir(path))
			checkReference(t, c.Config(), c, openReference(t, path))
		})
	}
}

// TestGoldenAdamW repeats ten recorded steps of PyTorch's AdamW.
func TestGoldenAdamW(t *testing.T) {
	for _, path := range golden.Find(t, "*/train.json") {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
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
			tr, err := Open(0).Trainer(c.Config(), c, engine.TrainOptions{
				Rows: len(first), Length: len(first[0]),
				Optimizer: engine.AdamW{Beta1: run.Betas[0], Beta2: run.Betas[1], Eps: run.Eps,
					WeightDecay: run.WeightDecay, Decay: engine.DecayAll, Clip: run.Clip},
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range run.Steps {
				var ids []int32
				for _, row := range s.Tokens {
					ids = append(ids, row...)
				}
				if err := tr.Accumulate(context.Background(), batchOf(ids, len(s.Tokens), len(s.Tokens[0]))); err != nil {
					t.Fatal(err)
				}
				got, err := tr.Update(context.Background(), s.LR)
				if err != nil {
					t.Fatal(err)
				}
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

// TestGoldenShared converts each golden model as the authors do and compares
// the converted model's logits, loss and gradients, with keys shared after and
// before rotary. A file's name says how many layers and heads keep keys and
// values: mlkv-LAYERSxHEADS-post-rotary.safetensors.
func TestGoldenShared(t *testing.T) {
	name := regexp.MustCompile(`^mlkv-(\d+)x(\d+)-(pre|post)-rotary\.safetensors$`)
	for _, path := range golden.Find(t, "*/mlkv-*.safetensors") {
		t.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), func(t *testing.T) {
			m := name.FindStringSubmatch(filepath.Base(path))
			if m == nil {
				t.Fatalf("expected a name like mlkv-2x1-post-rotary.safetensors")
			}
			layers, _ := strconv.Atoi(m[1])
			heads, _ := strconv.Atoi(m[2])
			out := filepath.Join(t.TempDir(), "converted")
			err := convert.Run(background, convert.Options{
				Source: filepath.Dir(path), Output: out, KVLayers: layers, KVHeads: heads, Preset: "authors",
			}, ui.Streams{Out: io.Discard, Err: io.Discard})
			if err != nil {
				t.Fatal(err)
			}
			c := openCheckpoint(t, out)
			cfg := c.Config()
			if cfg.SharedKeyRotary != model.RotaryBefore {
				t.Errorf("the authors' preset shares keys %s rotary", cfg.SharedKeyRotary)
			}
			cfg.SharedKeyRotary = map[string]model.KeyRotary{"pre": model.RotaryBefore, "post": model.RotaryAfter}[m[3]]
			checkReference(t, cfg, c, openReference(t, path))
		})
	}
}
