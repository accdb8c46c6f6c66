package convert

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// TestIdentity converts to as many layers and heads as there are: the weight
// file stays as it was, byte for byte.
func TestIdentity(t *testing.T) {
	for _, d := range []checkpoint.DType{checkpoint.F32, checkpoint.F16, checkpoint.BF16} {
		for _, o := range []Options{{KVLayers: 6, KVHeads: 6}, {}, {LayerMap: "0_1_2_3_4_5", Pooling: "running", Grow: "copy"}, {Pooling: "first"}} {
			source := folder(t, small(), checkpoint.WriteOptions{DType: d})
			c := converted(t, source, o)
			for _, name := range []string{"model.safetensors", "config.json"} {
				a, err := os.ReadFile(filepath.Join(source, name))
				if err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(filepath.Join(c.Dir(), name))
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(a, b) {
					t.Errorf("%s %+v: %s changed", d, o, name)
				}
			}
		}
	}
}

// TestTwice converts in two steps, which must give what one step gives.
func TestTwice(t *testing.T) {
	source := folder(t, small(), checkpoint.WriteOptions{})
	for _, c := range []struct{ first, second, once Options }{
		{Options{KVHeads: 2}, Options{KVLayers: 3, KVHeads: 1}, Options{KVLayers: 3, KVHeads: 1}},
		{Options{KVLayers: 3}, Options{KVLayers: 1, KVHeads: 3}, Options{KVLayers: 1, KVHeads: 3}},
		{Options{LayerMap: "0_0_0_0_4_5"}, Options{LayerMap: "0_0_0_0_0_5", KVHeads: 2}, Options{LayerMap: "0_0_0_0_0_5", KVHeads: 2}},
		{Options{LayerMap: "0_1_1_0_4_1"}, Options{LayerMap: "0_0_0_0_4_0"}, Options{LayerMap: "0_0_0_0_4_0"}},
	} {
		c.first.Grow, c.second.Grow, c.once.Grow = "none", "none", "none"
		step := converted(t, source, c.first)
		equalModels(t, converted(t, step.Dir(), c.second), converted(t, source, c.once), 1e-6)
	}
}

// TestMean computes pooled projections from their definition, with common owners
// and with owners of values of their own.
func TestMean(t *testing.T) {
	cfg := small()
	source := open(t, folder(t, cfg, checkpoint.WriteOptions{}))
	w := newNoise(cfg)
	for _, c := range []struct {
		layers, values string
		heads          int
	}{
		{"0_0_0_0_0_0", "", 1}, {"0_0_2_2_4_4", "", 2}, {"0_1_0_1_1_5", "", 3}, {"0_0_0_0_0_5", "", 6},
		{"0_0_0_0_0_0", "0_0_2_2_4_4", 1}, {"0_0_2_2_4_4", "0_1_0_1_1_5", 2}, {"0_1_2_3_4_5", "0_0_0_0_0_5", 6},
	} {
		dst, got := planned(t, source, Options{LayerMap: c.layers, ValueLayerMap: c.values, KVHeads: c.heads})
		if c.values == "" {
			c.values = c.layers
		}
		if dst.Owner.String() != c.layers || dst.ValueOwners().String() != c.values {
			t.Errorf("owner maps %s and %s, expected %s and %s", dst.Owner, dst.ValueOwners(), c.layers, c.values)
		}
		for module, owners := range map[string]model.OwnerMap{model.Key: dst.Owner, model.Value: dst.ValueOwners()} {
			for _, kind := range []string{".weight", ".bias"} {
				for _, o := range owners.List() {
					testMean(t, got, w, cfg, owners, c.heads, o, module+kind)
				}
			}
		}
	}
}

func testMean(t *testing.T, got, w checkpoint.Weights, cfg model.Config, owners model.OwnerMap, heads, owner int, name string) {
	t.Helper()
	x := floats(t, got, model.LayerName(owner, name))
	head := len(x) / heads
	per := cfg.Heads / heads
	step := 1 + len(x)/200 // a sample of the weights will do
	for i := 0; i < len(x); i += step {
		h, e := i/head, i%head
		sum, n := 0.0, 0
		for _, l := range owners.Members(owner) {
			from := floats(t, w, model.LayerName(l, name))
			for g := h * per; g < (h+1)*per; g++ {
				sum += float64(from[g*head+e])
				n++
			}
		}
		if want := float32(sum / float64(n)); math.Abs(float64(x[i]-want)) > 1e-6 {
			t.Fatalf("%s: %s layer %d element %d: %g, expected %g", owners, name, owner, i, x[i], want)
		}
	}
}

func TestFirst(t *testing.T) {
	cfg := small()
	got := converted(t, folder(t, cfg, checkpoint.WriteOptions{}), Options{KVLayers: 2, KVHeads: 2, Pooling: "first"})
	x := floats(t, got, model.LayerName(3, model.Key)+".bias")
	from := floats(t, newNoise(cfg), model.LayerName(3, model.Key)+".bias")
	k := cfg.HeadSize()
	if want := append(slices.Clone(from[:k]), from[3*k:4*k]...); !slices.Equal(x, want) {
		t.Errorf("keys %v, expected heads 0 and 3: %v", x, want)
	}
}

// TestAddedNeurons holds the grown sizes of Pythia-160M against the authors'.
func TestAddedNeurons(t *testing.T) {
	src, err := model.Sized("pythia-160m")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ layers, heads, want int }{
		{12, 12, 3072}, {12, 4, 3584}, {4, 12, 3584}, {12, 1, 3777}, {4, 3, 3777}, {6, 1, 3809}, {4, 1, 3819}, {2, 1, 3830}, {1, 1, 3835},
	} {
		p, err := newPlan(src, Options{KVLayers: c.layers, KVHeads: c.heads, Pooling: "mean", Grow: "split", SharedKeyRotary: model.RotaryAfter})
		if err != nil {
			t.Fatal(err)
		}
		if p.dst.IntermediateSize != c.want {
			t.Errorf("%dx%d: MLP of %d, expected %d", c.layers, c.heads, p.dst.IntermediateSize, c.want)
		}
	}
}

// TestGrowth checks what growing means: the twins' output weights add up to the
// neuron's under split, and are the neuron's under copy.
func TestGrowth(t *testing.T) {
	x := []float32{1, 2, 3, 4, 5, 6} // 2 rows of 3 neurons
	for _, c := range []struct {
		grow string
		want string
	}{
		{"split", "[0.5 1 1.5 0.5 1 1.5 2 2.5 3 2 2.5 3]"},
		{"copy", "[1 2 3 1 2 3 4 5 6 4 5 6]"},
	} {
		if got := fmt.Sprint(growColumns(x, 3, 6, growths[c.grow])); got != c.want {
			t.Errorf("%s: %s, expected %s", c.grow, got, c.want)
		}
	}
	if got, want := fmt.Sprint(growColumns(x, 3, 4, splitGrowth{})), "[0.5 2 3 0.5 2 5 6 2]"; got != want {
		t.Errorf("split of one: %s, expected %s", got, want)
	}
	if got, want := fmt.Sprint(growColumns([]float32{1, 4}, 2, 5, splitGrowth{})), "[0.33333334 2 0.33333334 2 0.33333334]"; got != want {
		t.Errorf("split beyond twice: %s, expected %s", got, want)
	}
	if got, want := fmt.Sprint(growRows([]float32{1, 2, 3, 4, 5, 6}, 3, 5)), "[1 2 3 4 5 6 1 2 3 4]"; got != want {
		t.Errorf("rows: %s, expected %s", got, want)
	}
}

// TestSplitKeepsTheFunction grows the MLPs of a model without pooling anything
// and compares its logits.
func TestSplitKeepsTheFunction(t *testing.T) {
	cfg := small()
	dir := t.TempDir()
	if err := checkpoint.Write(dir, cfg, scaled{newNoise(cfg)}, checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	src := open(t, dir)
	p := &plan{src: cfg, dst: cfg, pool: poolings["mean"], grow: growths["split"], add: 29}
	p.dst.IntermediateSize += p.add
	e := cpu.Open(0)
	defer e.Close()
	tokens := []int32{3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 3}
	logits := func(cfg model.Config, w checkpoint.Weights) []float32 {
		s, err := e.Scorer(cfg, w)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		x, err := s.Logits(context.Background(), tokens)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Clone(x)
	}
	want := logits(cfg, src)
	got := logits(p.dst, newWeights(context.Background(), src, p))
	worst, largest := 0.0, 0.0
	for i := range want {
		worst = max(worst, math.Abs(float64(got[i]-want[i])))
		largest = max(largest, math.Abs(float64(want[i])))
	}
	if worst > 1e-5 || largest < 0.1 {
		t.Errorf("largest deviation %g of logits up to %g, expected at most 1e-5", worst, largest)
	}
	p.grow = growths["copy"]
	if same := slices.Equal(logits(p.dst, newWeights(context.Background(), src, p)), want); same {
		t.Error("copied neurons changed nothing: the test sees no MLP")
	}
}

// scaled brings noise to the size of a model's weights.
type scaled struct{ noise }

func (s scaled) Float32(name string) ([]float32, error) {
	x, err := s.noise.Float32(name)
	for i := range x {
		x[i] *= 0.2
	}
	return x, err
}

func TestKeyValueMLP(t *testing.T) {
	src, err := model.Sized("pythia-160m")
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(src, Options{KVLayers: 2, KVHeads: 1, Pooling: "mean", Grow: "split", KeyValueMLP: true, SharedKeyRotary: model.RotaryBefore})
	if err != nil {
		t.Fatal(err)
	}
	if p.dst.KVIntermediateSize != 4259 || p.dst.IntermediateSize != 3072 {
		t.Errorf("MLPs of %d and %d, expected 4259 and 3072", p.dst.KVIntermediateSize, p.dst.IntermediateSize)
	}

	source := folder(t, small(), checkpoint.WriteOptions{})
	o := Options{KVLayers: 2, KVHeads: 1, KeyValueMLP: true, Seed: 1}
	a, b := converted(t, source, o), converted(t, source, o)
	equalModels(t, a, b, 0)
	pooled := converted(t, source, Options{KVLayers: 2, KVHeads: 1})
	for _, kind := range []string{".weight", ".bias"} {
		x := floats(t, a, model.LayerName(3, model.ValueIn)+kind)
		want := floats(t, pooled, model.LayerName(3, model.Value)+kind)
		if !slices.Equal(x[:len(want)], want) {
			t.Errorf("dense_in%s does not begin with the pooled projection", kind)
		}
		bound := 1.0
		if kind == ".weight" {
			bound = 1 / math.Sqrt(24)
		}
		least, most := slices.Min(x[len(want):]), slices.Max(x[len(want):])
		if float64(most) > bound || float64(least) < -bound || float64(most) < 0.9*bound || float64(least) > -0.9*bound {
			t.Errorf("dense_in%s: random part from %g to %g, expected about %g", kind, least, most, bound)
		}
	}
	o.Seed = 2
	other := converted(t, source, o)
	name := model.LayerName(0, model.KeyOut) + ".weight"
	if slices.Equal(floats(t, a, name), floats(t, other, name)) {
		t.Error("another seed gives the same weights")
	}
}

func TestReport(t *testing.T) {
	source := folder(t, small(), checkpoint.WriteOptions{Config: []byte(`{"mine":1}`)})
	if err := os.WriteFile(filepath.Join(source, "tokenizer.json"), []byte("{}"), 0o666); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	s, stdout := streams()
	if err := Run(context.Background(), Options{Source: source, Output: out, KVLayers: 3, KVHeads: 2}, s); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(entries(t, out)), "[config.json configuration_mlkv.py convert.json model.safetensors modeling_mlkv.py tokenizer.json]"; got != want {
		t.Errorf("files %s, expected %s", got, want)
	}
	r := readReport(t, out)
	c := open(t, out)
	if r.After.Parameters != c.Config().Parameters() || r.Before.KVHeadsTotal != 36 || r.After.KVHeadsTotal != 6 ||
		r.Before.KVBytesPerToken != 6*6*4*2*2 || r.After.KVBytesPerToken != 3*2*4*2*2 {
		t.Errorf("sizes %+v and %+v", r.Before, r.After)
	}
	sum, _ := open(t, source).Checksum()
	if r.Provenance == nil || r.Provenance.Inputs[source] != sum {
		t.Errorf("provenance %+v, expected the source's checksum %s", r.Provenance, sum)
	}
	f, err := checkpoint.OpenSafetensors(filepath.Join(out, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for _, tensor := range r.Tensors {
		names = append(names, tensor.Name)
		if len(tensor.From) == 0 {
			t.Errorf("%s comes from nothing", tensor.Name)
		}
		if tensor.Name == "gpt_neox.layers.2.attention.key.weight" {
			want := `{"name":"gpt_neox.layers.2.attention.key.weight","shape":[8,24],"dtype":"F32","how":"pooled","from":[` +
				`{"tensor":"gpt_neox.layers.2.attention.query_key_value.weight","part":"key","heads":[[0,1,2],[3,4,5]],"weight":0.5},` +
				`{"tensor":"gpt_neox.layers.3.attention.query_key_value.weight","part":"key","heads":[[0,1,2],[3,4,5]],"weight":0.5}]}`
			if got, _ := json.Marshal(tensor); string(got) != want {
				t.Errorf("%s\nexpected\n%s", got, want)
			}
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, f.Names()) {
		t.Errorf("the report names %d tensors, the file holds %d", len(names), len(f.Names()))
	}
	for _, want := range []string{"before", "after", "key/value heads", "36", "parameters"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, stdout)
		}
	}
}

func readReport(t *testing.T, dir string) *Report {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "convert.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestJSONOutput(t *testing.T) {
	s, stdout := streams()
	o := Options{Source: folder(t, small(), checkpoint.WriteOptions{}), Output: filepath.Join(t.TempDir(), "out"), JSON: true}
	if err := Run(context.Background(), o, s); err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	for _, tensor := range r.Tensors {
		if tensor.How != "kept" {
			t.Errorf("%s: %s, expected kept", tensor.Name, tensor.How)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	parent := t.TempDir()
	s, _ := streams()
	err := Run(ctx, Options{Source: folder(t, small(), checkpoint.WriteOptions{}), Output: filepath.Join(parent, "out"), KVHeads: 1}, s)
	if ui.ExitCode(err) != ui.ExitInterrupted {
		t.Errorf("exit code %d, expected %d: %v", ui.ExitCode(err), ui.ExitInterrupted, err)
	}
	if left := entries(t, parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
