//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/convert"
	"mlkv/internal/engine"
	"mlkv/internal/golden"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// goldenTolerance is what golden/README.md allows in float32.
const goldenTolerance = 1e-4

// recorded is a train.json: steps of PyTorch's AdamW.
type recorded struct {
	Betas       []float64
	Eps, Clip   float64
	WeightDecay float64 `json:"weight_decay"`
	Steps       []struct {
		LR, Loss float64
		GradNorm float64   `json:"grad_norm"`
		Tokens   [][]int32 `json:"input_ids"`
	}
}

// TestGoldenAdamW repeats ten recorded steps in float32 mode: losses and norms
// hold forward pass, gradients and update to PyTorch's.
func TestGoldenAdamW(t *testing.T) {
	for _, path := range golden.Find(t, "*/train.json") {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			e := openGPU(t, Options{Float32: true})
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var run recorded
			if err := json.Unmarshal(data, &run); err != nil {
				t.Fatal(err)
			}
			c, err := checkpoint.Open(filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			first := run.Steps[0].Tokens
			trainer := newTrainer(t, e, c.Config(), c, engine.TrainOptions{
				Rows: len(first), Length: len(first[0]),
				Optimizer: engine.AdamW{Beta1: run.Betas[0], Beta2: run.Betas[1], Eps: run.Eps,
					WeightDecay: run.WeightDecay, Decay: engine.DecayAll, Clip: run.Clip},
			})
			for i, s := range run.Steps {
				if err := trainer.Accumulate(t.Context(), nextTokens(s.Tokens)); err != nil {
					t.Fatal(err)
				}
				got, err := trainer.Update(t.Context(), s.LR)
				if err != nil {
					t.Fatal(err)
				}
				if d := math.Abs(got.Loss - s.Loss); !(d <= goldenTolerance) {
					t.Errorf("step %d: loss %.6f, want %.6f", i, got.Loss, s.Loss)
				}
				if d := math.Abs(got.GradNorm - s.GradNorm); !(d <= goldenTolerance*max(1, s.GradNorm)) {
					t.Errorf("step %d: gradient norm %.6f, want %.6f", i, got.GradNorm, s.GradNorm)
				}
			}
		})
	}
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

// goldenFile is a file of reference results.
type goldenFile struct {
	t *testing.T
	*checkpoint.File
}

func openGolden(t *testing.T, path string) goldenFile {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return goldenFile{t, f}
}

func (f goldenFile) floats(name string) []float32 {
	f.t.Helper()
	v, err := f.Float32(name)
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// check compares logits, loss and every gradient in the file.
func (f goldenFile) check(e engine.Engine, cfg model.Config, w engine.Weights) {
	t := f.t
	t.Helper()
	tokens, err := f.Tensor("input_ids")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tokens.Int32()
	if err != nil {
		t.Fatal(err)
	}
	rows, length := tokens.Shape[0], tokens.Shape[1]
	scorer, err := e.Scorer(cfg, w)
	if err != nil {
		t.Fatal(err)
	}
	defer scorer.Close()
	var batch [][]int32
	var logits []float32
	for r := range rows {
		row := ids[r*length : (r+1)*length]
		l, err := scorer.Logits(t.Context(), row)
		if err != nil {
			t.Fatal(err)
		}
		logits, batch = append(logits, l...), append(batch, row)
	}
	f.compare("logits", logits)

	trainer := newTrainer(t, e, cfg, w, engine.TrainOptions{Rows: rows, Length: length,
		Optimizer: engine.AdamW{Beta2: 0.5, Eps: 1e-8, Decay: engine.DecayMatrices}})
	if err := trainer.Accumulate(t.Context(), nextTokens(batch)); err != nil {
		t.Fatal(err)
	}
	step, err := trainer.Update(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := float64(f.floats("loss")[0]); !(math.Abs(step.Loss-want) <= goldenTolerance) {
		t.Errorf("loss %v, want %v", step.Loss, want)
	}
	// With beta1 = 0 the first moment is the mean gradient.
	grads := testWeights{}
	for _, p := range cfg.Params() {
		grads[p.Name] = make([]float32, p.Size())
		if err := trainer.Read(p.Name, engine.SlotFirst, grads[p.Name]); err != nil {
			t.Fatal(err)
		}
	}
	compared := 0
	for _, entry := range checkpoint.Layout(cfg, checkpoint.HuggingFace, grads, checkpoint.F32) {
		if _, err := f.Tensor("grad." + entry.Name); err != nil {
			continue
		}
		x, err := entry.Source()
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Float32()
		if err != nil {
			t.Fatal(err)
		}
		f.compare("grad."+entry.Name, got)
		compared++
	}
	if compared == 0 {
		t.Errorf("no gradient of %s was compared", f.Path())
	}
}

// compare holds an array to a golden one, relative to its largest magnitude.
func (f goldenFile) compare(name string, got []float32) {
	f.t.Helper()
	want := f.floats(name)
	largest, worst, at := 0.0, 0.0, 0
	for i := range want {
		largest = max(largest, math.Abs(float64(want[i])))
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= goldenTolerance*largest) {
		f.t.Errorf("%s: element %d is %g, want %g; the largest magnitude is %g", name, at, got[at], want[at], largest)
	}
}

// TestGoldenPlain compares the plain models.
func TestGoldenPlain(t *testing.T) {
	for _, path := range golden.Find(t, "*/reference.safetensors") {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			e := openGPU(t, Options{Float32: true})
			c, err := checkpoint.Open(filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			openGolden(t, path).check(e, c.Config(), c)
		})
	}
}

// TestGoldenShared compares models that share keys and values, converted as the
// authors do, with keys shared after and before rotary.
func TestGoldenShared(t *testing.T) {
	name := regexp.MustCompile(`mlkv-(\d+)x(\d+)-(pre|post)-rotary\.safetensors$`)
	for _, path := range golden.Find(t, "*/mlkv-*.safetensors") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			e := openGPU(t, Options{Float32: true})
			m := name.FindStringSubmatch(path)
			if m == nil {
				t.Fatal("expected a name like mlkv-2x1-post-rotary.safetensors")
			}
			var layers, heads int
			if _, err := fmt.Sscan(m[1]+" "+m[2], &layers, &heads); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "converted")
			if err := convert.Run(t.Context(), convert.Options{
				Source: filepath.Dir(path), Output: out, KVLayers: layers, KVHeads: heads, Preset: "authors",
			}, ui.Streams{Out: io.Discard, Err: io.Discard}); err != nil {
				t.Fatal(err)
			}
			c, err := checkpoint.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			cfg := c.Config()
			cfg.SharedKeyRotary = map[string]model.KeyRotary{"pre": model.RotaryBefore, "post": model.RotaryAfter}[m[3]]
			openGolden(t, path).check(e, cfg, c)
		})
	}
}
