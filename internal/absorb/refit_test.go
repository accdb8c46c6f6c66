package absorb

import (
	"math"
	"slices"
	"testing"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/model"
)

// attention is what a layer's attention adds, [tokens, H], before its bias is
// counted on.
func attention(t *testing.T, cfg model.Config, w weights, layer int, b batch) blas.Matrix[float64] {
	t.Helper()
	c, err := cpu.Open(0).Collector(cfg, w, b.rows, b.length)
	if err != nil {
		t.Fatal(err)
	}
	p, err := projection(w, model.LayerName(layer, model.AttentionOut), cfg.HiddenSize)
	if err != nil {
		t.Fatal(err)
	}
	out := blas.Dense(b.counted, cfg.HiddenSize, make([]float64, b.counted*cfg.HiddenSize))
	err = c.Collect(background, b.tokens, func(a engine.Activations) error {
		if a.Layer == layer {
			blas.Gemm(blas.AsIs, blas.Transposed, 1, b.inputs(a.Output, cfg.HiddenSize, nil), p, 0, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func distance(a, b blas.Matrix[float64]) float64 {
	sum := 0.0
	for i, v := range a.Data {
		sum += (v - b.Data[i]) * (v - b.Data[i])
	}
	return math.Sqrt(sum)
}

// TestRefit: a refit brings the first changed layer's attention nearer to the
// unconverted one's, to where no small change of its projection brings it
// nearer still.
func TestRefit(t *testing.T) {
	for _, c := range []struct {
		values string
		slack  float64 // of the distance, which the ridge's own term may win
	}{{"0_1_1_1", 0}, {"0_0_2_2", 1e-5}, {"0_0_0_0", 1e-5}} {
		t.Run("values of "+c.values, func(t *testing.T) { testRefit(t, c.values, c.slack) })
	}
}

func testRefit(t *testing.T, values string, slack float64) {
	src := small(0.5, true)
	dst := shared(t, src, "0_1_1_1", 1)
	dst = dst.WithOwners(dst.Owner, shared(t, src, values, 1).Owner)
	w := random(src, 21)
	calibration := rows(src, 8, 40, 22)
	b := newBatch(calibration, 8, 40)
	const layer = 0
	folded, s := absorbed(t, src, dst, w, calibration)
	if err := s.Refit(background, cpu.Open(0), w, calibration, nil); err != nil {
		t.Fatal(err)
	}
	refitted := made(t, s, w)
	want := attention(t, src, w, layer, b)
	before, after := distance(attention(t, dst, folded, layer, b), want), distance(attention(t, dst, refitted, layer, b), want)
	if after >= 0.95*before {
		t.Errorf("attention is %g from the source's after the refit, %g before", after, before)
	}
	name := model.LayerName(layer, model.AttentionOut) + ".weight"
	for _, step := range []float32{0.1, -0.1} {
		for i := range 8 {
			moved := weights{}
			for k, v := range refitted {
				moved[k] = v
			}
			moved[name] = slices.Clone(refitted[name])
			moved[name][i*37] += step
			if d := distance(attention(t, dst, moved, layer, b), want); d < after*(1-slack) {
				t.Errorf("attention is %.9g from the source's, and %.9g with element %d moved by %g", after, d, i*37, step)
			}
		}
	}
	for i, l := range s.Report().Layers {
		if l.Layer != i || l.Refit != 1 {
			t.Errorf("report %d is of layer %d, refit %d times", i, l.Layer, l.Refit)
		}
	}
}

// TestWeighted: weights change nothing where the rank suffices, and lower the
// error of what attention puts out where it does not.
func TestWeighted(t *testing.T) {
	src := small(0.25, true)
	w := random(src, 31)
	calibration, tokens := rows(src, 8, 40, 32), rows(src, 1, 40, 33)[0]
	fit := func(dst model.Config, o Options) weights { return made(t, solved(t, src, dst, w, calibration, o), w) }
	// One output projection matters far more than the others.
	out := w[model.LayerName(0, model.AttentionOut)+".weight"]
	for i := range out {
		if i%src.HiddenSize >= src.HeadSize() {
			out[i] *= 0.05
		}
	}
	dst := shared(t, src, "0_1_2_3", 1)
	b := newBatch(calibration, 8, 40)
	want := attention(t, src, w, 0, b)
	alike := distance(attention(t, dst, fit(dst, Options{}), 0, b), want)
	weighted := distance(attention(t, dst, fit(dst, Options{Weighted: true}), 0, b), want)
	if weighted >= 0.8*alike {
		t.Errorf("attention is %g from the source's with weights, %g without", weighted, alike)
	}
	share(src, dst, w, 34)
	if d := deviation(logits(t, dst, fit(dst, Options{Weighted: true}), tokens), logits(t, src, w, tokens)); d > 1e-4 {
		t.Errorf("logits of a shareable model deviate by %g of the greatest", d)
	}
}
