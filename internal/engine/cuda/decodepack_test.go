package cuda

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/model"
)

// packedModel computes logits of one sequence from packed layers, in float64, as the
// device's decoder does.
type packedModel struct {
	cfg    model.Config // padded
	layers []packedLayer
	w      engine.Weights
	keys   map[int][][]float64 // of owners, by position, as they are cached
	values map[int][][]float64
}

func apply(l *packed, x []float64, bias bool) []float64 {
	out := make([]float64, l.rows)
	for r := range out {
		if bias {
			out[r] = float64(l.bias[r])
		}
		for c, v := range x {
			out[r] += float64(l.weight[r*l.cols+c]) * v
		}
	}
	return out
}

func addTo(x, y []float64) []float64 {
	for i := range x {
		x[i] += y[i]
	}
	return x
}

func normalize(x []float64, eps float64) []float64 {
	mean, variance := 0.0, 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = (v - mean) / math.Sqrt(variance+eps)
	}
	return out
}

func geluOf(x []float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v * 0.5 * math.Erfc(-v/math.Sqrt2)
	}
	return out
}

// turn rotates neighbouring pairs of channels.
func (m *packedModel) turn(x []float64, position int) []float64 {
	out := slices.Clone(x)
	size, dims := m.cfg.HeadSize(), m.cfg.RotaryDims()
	for h := 0; h < len(x); h += size {
		for p := range dims / 2 {
			sin, cos := math.Sincos(float64(position) * math.Pow(m.cfg.RotaryBase, -2*float64(p)/float64(dims)))
			a, b := x[h+2*p], x[h+2*p+1]
			out[h+2*p], out[h+2*p+1] = a*cos-b*sin, b*cos+a*sin
		}
	}
	return out
}

// attend is attention of one query over an owner's cache.
func (m *packedModel) attend(q []float64, owner int, turn bool) []float64 {
	size, group := m.cfg.HeadSize(), m.cfg.Heads/m.cfg.KVHeads
	out := make([]float64, len(q))
	for h := range m.cfg.Heads {
		at := h / group * size
		var scores []float64
		sum := 0.0
		for p, k := range m.keys[owner] {
			if turn {
				k = m.turn(k, p)
			}
			s := 0.0
			for c := range size {
				s += q[h*size+c] * k[at+c]
			}
			e := math.Exp(s / math.Sqrt(float64(size)))
			scores, sum = append(scores, e), sum+e
		}
		for p, v := range m.values[owner] {
			for c := range size {
				out[h*size+c] += scores[p] / sum * v[at+c]
			}
		}
	}
	return out
}

// next takes a token at the end of the sequence through the layers.
func (m *packedModel) next(t *testing.T, token int32, position int) []float32 {
	t.Helper()
	cfg := m.cfg
	read := func(name string) []float32 {
		v, err := m.w.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	h := cfg.HiddenSize
	x := make([]float64, h)
	for i := range x {
		x[i] = float64(read(model.EmbedIn)[int(token)*h+i])
	}
	for l, layer := range m.layers {
		owner := cfg.Owner[l]
		kv, query, _ := decodeColumns(cfg, l)
		normed := normalize(x, cfg.LayerNormEps)
		y := apply(layer.split, normed, false)
		if layer.kvIn != nil {
			inner := geluOf(apply(layer.kvIn, normed, true))
			half := len(inner) / 2
			y = slices.Concat(apply(layer.keyOut, inner[:half], false), apply(layer.valueOut, inner[half:], false), y)
		}
		for i := range y {
			y[i] += float64(layer.split.bias[i])
		}
		unrotated := cfg.SharedKeyRotary == model.RotaryBefore && len(cfg.Owner.Members(owner)) > 1
		if kv > 0 {
			k := y[:kv]
			if !unrotated {
				k = m.turn(k, position)
			}
			m.keys[l], m.values[l] = append(m.keys[l], k), append(m.values[l], y[kv:2*kv])
		}
		rest := y[2*kv:]
		attended := m.attend(m.turn(rest[:query], position), owner, kv > 0 && unrotated)
		x = addTo(x, apply(layer.out, append(attended, geluOf(rest[query:])...), true))
		if layer.mlpIn != nil {
			x = addTo(x, apply(layer.mlpOut, geluOf(apply(layer.mlpIn, normalize(x, cfg.LayerNormEps), true)), true))
		}
	}
	x = normalize(x, cfg.LayerNormEps)
	gain, shift, head := read(model.FinalNormName+".weight"), read(model.FinalNormName+".bias"), model.EmbedOut
	if cfg.TiedEmbeddings {
		head = model.EmbedIn
	}
	for i := range x {
		x[i] = x[i]*float64(gain[i]) + float64(shift[i])
	}
	logits := make([]float32, cfg.VocabSize)
	for v := range logits {
		s := 0.0
		for i := range x {
			s += x[i] * float64(read(head)[v*h+i])
		}
		logits[v] = float32(s)
	}
	return logits
}

// decodeModels are the shapes that decoding depends on.
func decodeModels(t testing.TB, hidden, vocab, heads int) map[string]model.Config {
	t.Helper()
	list := map[string]model.Config{}
	for _, where := range []model.KeyRotary{model.RotaryAfter, model.RotaryBefore} {
		for _, owners := range []string{"0_1_2", "0_0_0", "0_0_2", "0_1_0_1", "0_1_1_3"} {
			for _, kvHeads := range []int{heads, heads / 2, 1} {
				m, err := model.ParseOwnerMap(owners)
				if err != nil {
					t.Fatal(err)
				}
				c := model.Plain(vocab, hidden, len(m), heads)
				c.Owner, c.KVHeads, c.SharedKeyRotary, c.MaxPositions, c.IntermediateSize = m, kvHeads, where, 512, 2*hidden+21
				list[fmt.Sprintf("%s %s %d", where, owners, kvHeads)] = c
			}
		}
	}
	for name, change := range map[string]func(*model.Config){
		"sequential residual": func(c *model.Config) { c.ParallelResidual = false },
		"no rotary":           func(c *model.Config) { c.RotaryPct = 0 },
		"full rotary":         func(c *model.Config) { c.RotaryPct = 1 },
		"key/value MLPs":      func(c *model.Config) { c.KVIntermediateSize = 45 },
		"tied embeddings":     func(c *model.Config) { c.TiedEmbeddings = true },
	} {
		c := list["before 0_0_2 1"]
		change(&c)
		list[name] = c
	}
	return list
}

// TestPackedModelIsTheModel: the decoder's form of the weights computes the same
// logits, token by token, as the graph.
func TestPackedModelIsTheModel(t *testing.T) {
	const length = 7
	for name, cfg := range decodeModels(t, 64, 32, 4) {
		t.Run(name, func(t *testing.T) {
			w := randomWeights(cfg, 3)
			padded := pad(cfg)
			p := newPacker(cfg, padded, w)
			m := packedModel{cfg: padded, w: w, keys: map[int][][]float64{}, values: map[int][][]float64{}}
			for l := range cfg.Layers {
				layer, err := p.layer(l)
				if err != nil {
					t.Fatal(err)
				}
				m.layers = append(m.layers, layer)
			}
			tokens := testBatch(cfg, 1, length, 5).Tokens
			scorer, err := cpu.Open(0).Scorer(cfg, w)
			if err != nil {
				t.Fatal(err)
			}
			defer scorer.Close()
			want, err := scorer.Logits(t.Context(), tokens)
			if err != nil {
				t.Fatal(err)
			}
			for i, token := range tokens {
				compare(t, fmt.Sprint("logits after token ", i), m.next(t, token, i), want[i*cfg.VocabSize:(i+1)*cfg.VocabSize])
			}
		})
	}
}
