package absorb

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/model"
)

var background = context.Background()

// weights are a model's parameters by name.
type weights map[string][]float32

func (w weights) Float32(name string) ([]float32, error) {
	x, ok := w[name]
	if !ok {
		return nil, fmt.Errorf("no parameter %s", name)
	}
	return x, nil
}

// random is a model whose weights keep activations of a size of about 1, with
// layer norms that are none of identity.
func random(cfg model.Config, seed uint64) weights {
	r := rand.New(rand.NewPCG(seed, 2))
	w := weights{}
	for _, p := range cfg.Params() {
		x := make([]float32, p.Size())
		for i := range x {
			v := r.NormFloat64()
			switch p.Kind {
			case model.Matrix:
				v /= math.Sqrt(float64(p.Shape[1]))
			case model.Bias:
				v *= 0.3
			case model.Norm:
				v *= 0.2
				if p.Name[len(p.Name)-6:] == "weight" {
					v++
				}
			}
			x[i] = float32(v)
		}
		w[p.Name] = x
	}
	return w
}

// small is a plain model of 4 layers with 4 heads of 8 channels.
func small(rotary float64, parallel bool) model.Config {
	c := model.Plain(60, 32, 4, 4)
	c.RotaryPct, c.ParallelResidual, c.MaxPositions = rotary, parallel, 64
	return c
}

func shared(t testing.TB, src model.Config, owners string, heads int) model.Config {
	t.Helper()
	var err error
	if src.Owner, err = model.ParseOwnerMap(owners); err != nil {
		t.Fatal(err)
	}
	src.KVHeads = heads
	return src
}

// rows are random tokens.
func rows(cfg model.Config, n, length int, seed uint64) [][]int32 {
	r := rand.New(rand.NewPCG(seed, 3))
	out := make([][]int32, n)
	for i := range out {
		for range length {
			out[i] = append(out[i], r.Int32N(int32(cfg.VocabSize)))
		}
	}
	return out
}

// absorbed fits a model and gives the weights of the result.
func absorbed(t testing.TB, src, dst model.Config, w weights, calibration [][]int32) (weights, *Solution) {
	t.Helper()
	s := solved(t, src, dst, w, calibration, Options{})
	return made(t, s, w), s
}

func solved(t testing.TB, src, dst model.Config, w weights, calibration [][]int32, o Options) *Solution {
	t.Helper()
	m, err := Collect(background, cpu.Open(0), src, dst, w, calibration, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Fit(background, src, dst, w, m, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func made(t testing.TB, s *Solution, w weights) weights {
	t.Helper()
	out := weights{}
	for _, p := range s.dst.Params() {
		out[p.Name] = w[p.Name]
		if s.Changes(p) {
			x, err := s.Make(w, p)
			if err != nil {
				t.Fatal(err)
			}
			out[p.Name] = x
		}
		if len(out[p.Name]) != p.Size() {
			t.Fatalf("%s has %d elements, expected %d", p.Name, len(out[p.Name]), p.Size())
		}
	}
	return out
}

func logits(t testing.TB, cfg model.Config, w engine.Weights, tokens []int32) []float32 {
	t.Helper()
	s, err := cpu.Open(0).Scorer(cfg, w)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	x, err := s.Logits(background, tokens)
	if err != nil {
		t.Fatal(err)
	}
	return append([]float32(nil), x...)
}

// deviation is the greatest difference relative to the greatest magnitude.
func deviation(got, want []float32) float64 {
	worst, most := 0.0, 0.0
	for i := range want {
		worst = max(worst, math.Abs(float64(got[i])-float64(want[i])))
		most = max(most, math.Abs(float64(want[i])))
	}
	return worst / most
}

// share makes heads of w exact images of one head an owner and group of dst, so
// that dst holds all they do: linear images of values and of the channels of
// keys that rotary leaves, complex multiples in its planes. The layers' inputs
// differ, so only heads of one layer can be made so, unless the layers borrow
// in the source already.
func share(src, dst model.Config, w weights, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 4))
	d, rot, h := src.HeadSize(), src.RotaryDims(), src.HiddenSize
	group := src.KVHeads / dst.KVHeads
	for l := range src.Layers {
		for kv := range src.KVHeads {
			first := kv / group * group
			if kv == first {
				continue
			}
			value, key := make([]float64, d*d), make([]float64, d*d)
			for i := range value {
				value[i] = r.NormFloat64() / math.Sqrt(float64(d))
			}
			for p := range rot / 2 {
				a, b := r.NormFloat64(), r.NormFloat64()
				i, j := p, p+rot/2
				key[i*d+i], key[i*d+j], key[j*d+i], key[j*d+j] = a, -b, b, a
			}
			for i := rot; i < d; i++ {
				for j := rot; j < d; j++ {
					key[i*d+j] = r.NormFloat64() / math.Sqrt(float64(d))
				}
			}
			for module, image := range map[string][]float64{model.Key: key, model.Value: value} {
				for _, part := range []struct {
					name string
					in   int
				}{{".weight", h}, {".bias", 1}} {
					x, n := w[model.LayerName(l, module)+part.name], d*part.in
					if x == nil {
						continue // the layer borrows
					}
					multiply(x[kv*n:(kv+1)*n], image, x[first*n:(first+1)*n], d, d, part.in)
				}
			}
		}
	}
}

func TestExactlyShareable(t *testing.T) {
	for _, rotary := range []float64{0, 0.25, 0.5, 1} {
		for _, parallel := range []bool{true, false} {
			for _, heads := range []int{1, 2} {
				t.Run(fmt.Sprintf("rotary %g, parallel %v, %d heads", rotary, parallel, heads), func(t *testing.T) {
					src := small(rotary, parallel)
					dst := shared(t, src, "0_1_2_3", heads)
					w := random(src, 5)
					share(src, dst, w, 6)
					got, s := absorbed(t, src, dst, w, rows(src, 8, 40, 7))
					tokens := rows(src, 1, 40, 8)[0]
					if d := deviation(logits(t, dst, got, tokens), logits(t, src, w, tokens)); d > 1e-4 {
						t.Errorf("logits deviate by %g of the greatest", d)
					}
					for _, h := range s.Report().Heads {
						if *h.Key < 0.999999 || *h.Value < 0.999999 {
							t.Errorf("layer %d head %d explains %g of keys, %g of values, expected all", h.Layer, h.Head, *h.Key, *h.Value)
						}
					}
				})
			}
		}
	}
}

// TestShareableAcrossLayers: layers whose attention has no output and whose MLP
// has none leave the residual alone, so that all layers read the same input and
// one head can stand for those of several.
func TestShareableAcrossLayers(t *testing.T) {
	for _, owners := range []string{"0_0_0_0", "0_0_2_2", "0_1_0_1", "0_0_0_3"} {
		for _, rotary := range []float64{0, 0.25, 1} {
			src := small(rotary, true)
			dst := shared(t, src, owners, 1)
			w := random(src, 9)
			share(src, dst, w, 10)
			for l := range src.Layers {
				for _, module := range []string{model.InputNorm, model.Key, model.Value} {
					for _, part := range []string{".weight", ".bias"} {
						w[model.LayerName(l, module)+part] = w[model.LayerName(0, module)+part]
					}
				}
				if l < src.Layers-1 {
					for _, module := range []string{model.AttentionOut, model.MLPOut} {
						for _, part := range []string{".weight", ".bias"} {
							clear(w[model.LayerName(l, module)+part])
						}
					}
				}
			}
			got, _ := absorbed(t, src, dst, w, rows(src, 8, 40, 7))
			tokens := rows(src, 1, 40, 8)[0]
			if d := deviation(logits(t, dst, got, tokens), logits(t, src, w, tokens)); d > 1e-4 {
				t.Errorf("%s, rotary %g: logits deviate by %g of the greatest", owners, rotary, d)
			}
		}
	}
}

// TestIdentity fits heads that stand for one source each, which a conversion
// would keep as they are.
func TestIdentity(t *testing.T) {
	for _, rotary := range []float64{0, 0.25, 1} {
		src := small(rotary, true)
		w := random(src, 11)
		s, m := newSolution(src, src), newMoments(src, src, Options{})
		for l := range src.Layers {
			m.want(s.keys.side, l, src, m.keys)
			m.want(s.values.side, l, src, m.values)
		}
		c, err := cpu.Open(0).Collector(src, w, 8, 40)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.add(background, c, src, newBatch(rows(src, 8, 40, 12), 8, 40), &heldInputs{owners: map[int]blas.Matrix[float64]{}}); err != nil {
			t.Fatal(err)
		}
		for l := range src.Layers {
			fit, err := fitOwner(l, []side{s.keys.side, s.values.side}, src, w, m, Options{Ridge: DefaultRidge})
			if err != nil {
				t.Fatal(err)
			}
			s.take(l, fit)
		}
		tokens := rows(src, 1, 40, 8)[0]
		if d := deviation(logits(t, src, made(t, s, w), tokens), logits(t, src, w, tokens)); d > 1e-4 {
			t.Errorf("rotary %g: logits deviate by %g of the greatest", rotary, d)
		} else {
			t.Logf("rotary %g: %g", rotary, d)
		}
	}
}

// TestPieces: no token of a row is lost that is longer than what is run at once.
func TestPieces(t *testing.T) {
	cfg := small(0.25, true)
	long, short := rows(cfg, 1, 150, 3)[0], rows(cfg, 1, 5, 4)[0]
	batches, err := newBatches(cfg, [][]int32{long, short})
	if err != nil {
		t.Fatal(err)
	}
	var got []int32
	for _, b := range batches {
		for r, n := range b.used {
			got = append(got, b.tokens[r*b.length:r*b.length+n]...)
		}
	}
	if want := append(slices.Clone(long), short...); !slices.Equal(got, want) || batches[0].length != cfg.MaxPositions {
		t.Errorf("%d tokens in rows of %d, expected %d in rows of %d, the same", len(got), batches[0].length, len(want), cfg.MaxPositions)
	}
}
