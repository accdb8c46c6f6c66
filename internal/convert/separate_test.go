package convert

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/model"
)

// ofValues reports whether owners of values decide on a parameter.
func ofValues(name string) bool {
	return strings.Contains(name, model.Value) || strings.Contains(name, model.AttentionOut)
}

// TestSeparateOwners: keys are those of the conversion to their map, values those
// of the conversion to theirs, to the bit.
func TestSeparateOwners(t *testing.T) {
	source := open(t, folder(t, small(), checkpoint.WriteOptions{DType: checkpoint.BF16}))
	for _, c := range []struct {
		keys, values string
		heads        int
	}{{"0_0_0_0_4_4", "0_1_1_1_1_1", 1}, {"0_0_2_2_4_4", "0_0_0_3_3_3", 2}, {"0_1_2_3_4_5", "0_1_0_1_0_1", 6}} {
		for pooling := range poolings {
			o := Options{LayerMap: c.keys, KVHeads: c.heads, Pooling: pooling, Grow: "none"}
			_, ofKeys := planned(t, source, o)
			o.ValueLayerMap = c.values
			dst, both := planned(t, source, o)
			_, fromValues := planned(t, source, Options{LayerMap: c.values, KVHeads: c.heads, Pooling: pooling, Grow: "none"})
			for _, p := range dst.Params() {
				want := ofKeys
				if ofValues(p.Name) {
					want = fromValues
				}
				if !slices.Equal(floats(t, both, p.Name), floats(t, want, p.Name)) {
					t.Errorf("%s, keys of %s, values of %s x %d: %s is another than with one map", pooling, c.keys, c.values, c.heads, p.Name)
				}
			}
		}
	}
}

// TestSeparateSizes: what is lost counts by the projections of keys and of values.
func TestSeparateSizes(t *testing.T) {
	src, err := model.Sized("pythia-160m")
	if err != nil {
		t.Fatal(err)
	}
	const two, three, six = "0_0_0_0_0_0_0_0_8_8_8_8", "0_1_1_1_1_1_1_1_1_9_9_9", "0_0_2_2_4_4_6_6_8_8_10_10"
	for _, c := range []struct {
		separate, like Options
		between        bool // rather than the same
	}{
		{Options{LayerMap: two, ValueLayerMap: "0_0_2_2_2_2_2_2_2_2_2_2"}, Options{KVLayers: 2}, false},
		{Options{LayerMap: two, ValueLayerMap: "0_0_2_2_2_2_2_2_2_2_2_2", KeyValueMLP: true}, Options{KVLayers: 2, KeyValueMLP: true}, false},
		{Options{LayerMap: two, ValueLayerMap: two}, Options{KVLayers: 2}, false},
		{Options{LayerMap: two, ValueLayerMap: six}, Options{KVLayers: 4}, false},
		{Options{LayerMap: three, ValueLayerMap: six}, Options{KVLayers: 4}, true},
	} {
		c.separate.KVHeads, c.like.KVHeads = 1, 1
		c.separate.Source, c.like.Source = "base", "base"
		got, err := Shape(src, c.separate)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Shape(src, c.like)
		if err != nil {
			t.Fatal(err)
		}
		same := got.IntermediateSize == want.IntermediateSize && got.KVIntermediateSize == want.KVIntermediateSize &&
			got.Parameters() == want.Parameters() && got.KVElements() == want.KVElements()
		if same == c.between {
			t.Errorf("keys of %s, values of %s: MLPs of %d and %d, %d parameters; with a common map %d and %d, %d", c.separate.LayerMap, c.separate.ValueLayerMap,
				got.IntermediateSize, got.KVIntermediateSize, got.Parameters(), want.IntermediateSize, want.KVIntermediateSize, want.Parameters())
		}
		if off := got.Parameters() - src.Parameters(); c.between && max(off, -off) > src.Parameters()/1000 {
			t.Errorf("%d parameters, the source %d", got.Parameters(), src.Parameters())
		}
	}
}

// TestSeparateSource converts a model whose keys and values have owners of their
// own already.
func TestSeparateSource(t *testing.T) {
	src := small()
	keys, _ := model.ParseOwnerMap("0_0_2_2_4_4")
	values, _ := model.ParseOwnerMap("0_0_0_0_4_5")
	src = src.WithOwners(keys, values)
	for _, c := range []struct {
		o            Options
		keys, values string
		err          string
	}{
		{o: Options{}, keys: "0_0_2_2_4_4", values: "0_0_0_0_4_5"},
		{o: Options{KVHeads: 1}, keys: "0_0_2_2_4_4", values: "0_0_0_0_4_5"},
		{o: Options{KVLayers: 3}, keys: "0_0_2_2_4_4", values: "0_0_0_0_4_5"},
		{o: Options{KVLayers: 1}, keys: "0_0_0_0_0_0", values: "0_0_0_0_0_0"},
		{o: Options{LayerMap: "0_0_0_0_4_4"}, keys: "0_0_0_0_4_4", values: "0_0_0_0_4_4"},
		{o: Options{LayerMap: "0_0_0_0_4_4", ValueLayerMap: "0_0_0_0_0_5"}, keys: "0_0_0_0_4_4", values: "0_0_0_0_0_5"},
		{o: Options{ValueLayerMap: "0_0_0_0_0_0"}, keys: "0_0_2_2_4_4", values: "0_0_0_0_0_0"},
		{o: Options{ValueLayerMap: "0_0_0_0_4_4"}, keys: "0_0_2_2_4_4", values: "0_0_0_0_4_4"},
		{o: Options{LayerMap: "0_0_2_2_4_4"}, err: "layer_map: layer 2 would attend to layer 2, which owns no values in the source (its owner map is 0_0_0_0_4_5"},
		{o: Options{LayerMap: "0_0_0_0_4_5"}, err: "layer_map: layer 5 would attend to layer 5, which owns no keys in the source"},
		{o: Options{ValueLayerMap: "0_0_0_0_4_0", LayerMap: "0_0_0_0_0_0"}, keys: "0_0_0_0_0_0", values: "0_0_0_0_4_0"},
		{o: Options{ValueLayerMap: "0_0_2_2_4_4"}, err: "value_layer_map: layer 2 would attend to layer 2, which owns no values"},
		{o: Options{KVLayers: 4}, err: "kv_layers: expected 1 to 3 (the layers of the source that own keys), found 4"},
	} {
		c.o.Source = "base"
		got, err := Shape(src, c.o)
		if c.err != "" {
			if !strings.Contains(fmt.Sprint(err), c.err) {
				t.Errorf("%+v: error %v, expected %q", c.o, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c.o, err)
			continue
		}
		if got.Owner.String() != c.keys || got.ValueOwners().String() != c.values {
			t.Errorf("kv_layers %d, layer_map %q, value_layer_map %q: keys of %s, values of %s, expected %s and %s",
				c.o.KVLayers, c.o.LayerMap, c.o.ValueLayerMap, got.Owner, got.ValueOwners(), c.keys, c.values)
		}
		if (got.ValueOwner == nil) != (c.keys == c.values) {
			t.Errorf("a map of values %v beside that of keys %v", got.ValueOwner, got.Owner)
		}
	}
}

// TestSeparateAbsorb runs a start by absorption and compares the weights written
// with those of the conversions to either map.
func TestSeparateAbsorb(t *testing.T) {
	dir, sum := tokenized(t)
	o := absorbing(dir, shard(t, sum, randomRows(64)...))
	o.KVHeads, o.Grow, o.Weighted = 2, "none", true
	run := func(keys, values string) (*checkpoint.File, *Report, string) {
		o.LayerMap, o.ValueLayerMap = keys, values
		o.Output = filepath.Join(t.TempDir(), "out")
		s, stdout := streams()
		if err := Run(context.Background(), o, s); err != nil {
			t.Fatal(err)
		}
		f, err := checkpoint.OpenSafetensors(filepath.Join(o.Output, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f, readReport(t, o.Output), stdout.String()
	}
	const keys, values = "0_0_2_2_2_5", "0_1_1_1_4_4"
	ofKeys, _, common := run(keys, "")
	fromValues, _, _ := run(values, "")
	both, r, table := run(keys, values)
	for _, name := range both.Names() {
		want := ofKeys
		if ofValues(name) {
			want = fromValues
		}
		x, err := both.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		y, err := want.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(x, y) {
			t.Errorf("%s is another than with one map", name)
		}
	}
	a := r.After
	if a.KVLayers != 3 || a.ValueKVLayers != 3 || a.KVHeadsTotal != 6 || a.ValueHeadsTotal != 6 || a.LayerMap != keys || a.ValueLayerMap != values || r.Before.ValueLayerMap != "" {
		t.Errorf("sizes %+v", a)
	}
	if len(r.Absorbed.Owners) != 5 || len(r.Absorbed.Layers) != 6 || *r.Absorbed.Layers[5].ValueOwner != 4 {
		t.Errorf("owners %+v, layers %+v", r.Absorbed.Owners, r.Absorbed.Layers)
	}
	from := map[string]int{}
	for _, tensor := range r.Tensors {
		from[tensor.Name] = len(tensor.From)
	}
	if k, v := from[model.LayerName(2, model.Key)+".weight"], from[model.LayerName(1, model.Value)+".bias"]; k != 3 || v != 3 {
		t.Errorf("keys of layer 2 are from %d layers, values of layer 1 from %d, expected 3 each", k, v)
	}
	if !strings.Contains(table, "heads of values") || strings.Contains(common, "heads of values") {
		t.Errorf("tables with separate owners\n%s\nand with common ones\n%s", table, common)
	}
}

// TestCommonReport: members on values of their own are told only of models that
// have them.
func TestCommonReport(t *testing.T) {
	src := small()
	data, err := json.Marshal(sizeOf(src))
	if err != nil || strings.Contains(string(data), "value") {
		t.Errorf("%s, %v", data, err)
	}
	if settings := fmt.Sprint(Options{}.settings()); strings.Contains(settings, "value_layer_map") {
		t.Errorf("settings %s", settings)
	}
	owners, _ := model.ContiguousOwners(src.Layers, 3)
	data, err = json.Marshal(sizeOf(src.WithOwners(src.Owner, owners)))
	if err != nil || !strings.Contains(string(data), `"value_kv_layers":3`) {
		t.Errorf("%s, %v", data, err)
	}
}
