package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// within reports whether part lies in the memory of all.
func within(part, all []byte) bool {
	a, b := uintptr(unsafe.Pointer(unsafe.SliceData(part))), uintptr(unsafe.Pointer(unsafe.SliceData(all)))
	return a >= b && a+uintptr(len(part)) <= b+uintptr(len(all))
}

func putIndex(t testing.TB, dir, name string, index map[string]string) {
	t.Helper()
	data, err := json.Marshal(map[string]any{"metadata": map[string]int{"total_size": 1}, "weight_map": index})
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, name, data)
}

// TestRoundTrip writes models of every form in every type and reads them back.
func TestRoundTrip(t *testing.T) {
	free := small(5, 2)
	free.Owner, _ = model.ParseOwnerMap("0_1_0_1_4")
	mlp := small(2, 3)
	mlp.KVIntermediateSize = 17
	separate, separateMLP := separateOwners(6), separateOwners(2)
	separateMLP.KVIntermediateSize = 17
	tied := small(5, 6)
	tied.TiedEmbeddings = true
	for name, cfg := range map[string]model.Config{
		"plain": small(5, 6), "GQA": small(5, 2), "MLKV": small(2, 1), "layers only": small(3, 6), "free": free, "MLP": mlp, "tied": tied,
		"separate": separate, "separate MLP": separateMLP,
	} {
		for _, d := range []DType{F32, F16, BF16} {
			t.Run(name+"/"+string(d), func(t *testing.T) {
				c := open(t, folder(t, cfg, WriteOptions{DType: d}))
				if got := c.Config(); fmt.Sprint(got) != fmt.Sprint(cfg) {
					t.Errorf("config %+v, expected %+v", got, cfg)
				}
				if c.DType() != d {
					t.Errorf("type %s, expected %s", c.DType(), d)
				}
				if err := c.CheckFinite(); err != nil {
					t.Error(err)
				}
				w := newNoise(cfg)
				for _, p := range cfg.Params() {
					sameFloats(t, p, c, w)
				}
			})
		}
	}
}

// TestPlainIsFused looks at the rows of query_key_value: [head, (q, k, v),
// channel].
func TestPlainIsFused(t *testing.T) {
	cfg := small(5, 6)
	dir := folder(t, cfg, WriteOptions{})
	f, err := OpenSafetensors(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fused, err := f.Float32("gpt_neox.layers.3.attention.query_key_value.bias")
	if err != nil {
		t.Fatal(err)
	}
	w := newNoise(cfg)
	k := cfg.HeadSize()
	for i, module := range []string{"query", "key", "value"} {
		x, _ := w.Float32("gpt_neox.layers.3.attention." + module + ".bias")
		for h := range cfg.Heads {
			for j := range k {
				if got := fused[(3*h+i)*k+j]; got != x[h*k+j] {
					t.Fatalf("%s head %d channel %d: %g, expected %g", module, h, j, got, x[h*k+j])
				}
			}
		}
	}
	if _, err := f.Tensor("gpt_neox.layers.3.attention.key.bias"); err == nil {
		t.Error("a plain model holds a separate key")
	}
}

func TestMappedWithoutCopy(t *testing.T) {
	cfg := small(2, 3)
	c := open(t, folder(t, cfg, WriteOptions{}))
	for _, p := range cfg.Params() {
		x, err := c.Float32(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := bytesOf(x)
		if !within(data, c.files[0].mapping.data) {
			t.Errorf("%s is a copy", p.Name)
		}
	}
}

// rename rewrites a checkpoint's weight file under other tensor names.
func rename(t *testing.T, dir string, name func(string) string, extra ...Entry) {
	t.Helper()
	path := filepath.Join(dir, "model.safetensors")
	f, err := OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	var entries []Entry
	for _, n := range f.Names() {
		tensor, _ := f.Tensor(n)
		if to := name(n); to != "" {
			entries = append(entries, Entry{Name: to, DType: tensor.DType, Shape: tensor.Shape, Source: func() (Tensor, error) { return tensor, nil }})
		}
	}
	other := path + ".new"
	if err := WriteSafetensors(other, append(entries, extra...), nil); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
}

func same(name string) string { return name }

func TestOtherNames(t *testing.T) {
	cfg := small(2, 3)
	w := newNoise(cfg)
	for _, c := range []struct {
		name   string
		rename func(string) string
		extra  []Entry
	}{
		{"lm_head", func(n string) string { return strings.Replace(n, "embed_out.weight", "lm_head.weight", 1) }, nil},
		{"no prefix", func(n string) string { return strings.TrimPrefix(n, "gpt_neox.") }, nil},
		{"buffers", same, []Entry{
			entry("gpt_neox.layers.0.attention.masked_bias", nil, -1e9),
			entry("gpt_neox.layers.0.attention.rotary_emb.inv_freq", []int{1}, 1),
			{Name: "gpt_neox.layers.4.attention.bias", DType: U8, Shape: []int{1, 1, 2, 2},
				Source: func() (Tensor, error) { return Tensor{U8, []int{1, 1, 2, 2}, make([]byte, 4)}, nil }},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, cfg, WriteOptions{})
			rename(t, dir, c.rename, c.extra...)
			got := open(t, dir)
			for _, p := range cfg.Params() {
				sameFloats(t, p, got, w)
			}
		})
	}
}

func TestOpenRefusals(t *testing.T) {
	const key = "gpt_neox.layers.0.attention.key.weight"
	drop := func(name string) func(string) string {
		return func(n string) string {
			if n == name {
				return ""
			}
			return n
		}
	}
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, dir string)
		expect []string
	}{
		{"no folder", func(t *testing.T, dir string) { os.RemoveAll(dir) }, []string{"config.json", "no such file"}},
		{"no weights", func(t *testing.T, dir string) { os.Remove(dir + "/model.safetensors") }, []string{"expected model.safetensors or pytorch_model.bin"}},
		{"another architecture", func(t *testing.T, dir string) {
			put(t, dir, "config.json", edited(map[string]any{"model_type": "opt"}))
		},
			[]string{"config.json", "model_type", "gpt_neox", "opt"}},
		{"truncated", func(t *testing.T, dir string) {
			data := get(t, dir+"/model.safetensors")
			put(t, dir, "model.safetensors", data[:len(data)-4])
		}, []string{"model.safetensors", "tensor", "truncated"}},
		{"missing tensor", func(t *testing.T, dir string) { rename(t, dir, drop(key)) }, []string{"model.safetensors", key, "expected it with shape [12 24], found none"}},
		{"missing fused tensor", func(t *testing.T, dir string) {
			put(t, dir, "config.json", edited(nil))
			rename(t, dir, drop(key))
		}, []string{key, "query_key_value.weight", "found neither"}},
		{"another shape", func(t *testing.T, dir string) {
			put(t, dir, "config.json", edited(map[string]any{"num_key_value_heads": 3, "num_key_value_layers": 2, "vocab_size": 41}))
		}, []string{"model.safetensors", "gpt_neox.embed_in.weight", "shape: expected [41 24] from config.json, found [40 24]"}},
		{"another type", func(t *testing.T, dir string) {
			rename(t, dir, drop("gpt_neox.final_layer_norm.bias"), Entry{Name: "gpt_neox.final_layer_norm.bias", DType: I32, Shape: []int{24},
				Source: func() (Tensor, error) { return Tensor{I32, []int{24}, make([]byte, 96)}, nil }})
		}, []string{"final_layer_norm.bias", "dtype: expected F32, F16 or BF16, found I32"}},
		{"unknown tensor", func(t *testing.T, dir string) {
			rename(t, dir, same, entry("gpt_neox.layers.0.lora.weight", []int{1}, 1))
		},
			[]string{"gpt_neox.layers.0.lora.weight", "expected only what config.json calls for"}},
		{"two output projections", func(t *testing.T, dir string) { rename(t, dir, same, entry("lm_head.weight", []int{1}, 1)) },
			[]string{"lm_head.weight", "embed_out.weight", "second time"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, small(2, 3), WriteOptions{})
			c.spoil(t, dir)
			_, err := Open(dir)
			refused(t, err, ui.ExitInput, append(c.expect, dir)...)
		})
	}
}

// TestSeparateOwners reads query_key_value in a layer that owns both keys and
// values, and refuses tensors that do not go with the maps.
func TestSeparateOwners(t *testing.T) {
	cfg := separateOwners(6) // layer 0 owns both, 1 values, 2 keys
	w := newNoise(cfg)
	fuse := func(t *testing.T, dir string, layer int) {
		query := model.Param{Name: model.LayerName(layer, model.Query) + ".weight", Shape: []int{24, 24}, Layer: layer}
		of := newNoise(small(5, 6))
		rename(t, dir, func(n string) string {
			if slices.Contains(FusedParts(model.LayerName(layer, model.QueryKeyValue)+".weight"), n) {
				return ""
			}
			return n
		}, fusedEntry(cfg, of, query, ".weight", F32))
	}
	dir := folder(t, cfg, WriteOptions{})
	fuse(t, dir, 0)
	got := open(t, dir)
	for _, p := range cfg.Params() {
		sameFloats(t, p, got, w)
	}

	name := func(layer int, module string) string { return model.LayerName(layer, module) + ".weight" }
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, dir string)
		expect []string
	}{
		{"missing values", func(t *testing.T, dir string) {
			rename(t, dir, func(n string) string { return strings.Replace(n, name(1, model.Value), "", 1) })
		}, []string{name(1, model.Value), "expected it with shape [24 24], found none"}},
		{"borrowed keys", func(t *testing.T, dir string) {
			rename(t, dir, same, entry(name(1, model.Key), []int{1}, 1))
		}, []string{name(1, model.Key), "expected only what config.json calls for"}},
		{"one map", func(t *testing.T, dir string) {
			put(t, dir, "config.json", edited(map[string]any{"layer_map": "0_0_2_2_0"}))
		}, []string{name(2, model.Value), "found neither"}},
		{"fused without values", func(t *testing.T, dir string) { fuse(t, dir, 2) },
			[]string{name(2, model.Query), "expected it with shape [24 24], found none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, cfg, WriteOptions{})
			c.spoil(t, dir)
			_, err := Open(dir)
			refused(t, err, ui.ExitInput, append(c.expect, dir)...)
		})
	}
}

func TestCheckFinite(t *testing.T) {
	const name = "gpt_neox.layers.2.mlp.dense_h_to_4h.bias"
	for _, d := range []DType{F32, F16, BF16} {
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
			data := encode(nil, make([]float32, 96), d)
			copy(data[7*d.Size():], encode(nil, []float32{bad}, d))
			dir := folder(t, small(2, 3), WriteOptions{DType: d})
			rename(t, dir, func(n string) string {
				if n == name {
					return ""
				}
				return n
			}, Entry{Name: name, DType: d, Shape: []int{96}, Source: func() (Tensor, error) { return Tensor{d, []int{96}, data}, nil }})
			c := open(t, dir)
			err := c.CheckFinite()
			refused(t, err, ui.ExitInput, dir, name, "element 7 of 96", "expected a finite number", fmt.Sprint("found ", bad))
			if err := c.CheckFinite("gpt_neox.embed_in.weight"); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestChecksum(t *testing.T) {
	dir := folder(t, small(2, 3), WriteOptions{})
	sum := sha256.Sum256(get(t, dir+"/model.safetensors"))
	got, err := open(t, dir).Checksum()
	if err != nil || got != hex.EncodeToString(sum[:]) {
		t.Errorf("checksum %s, %v; expected %x", got, err, sum)
	}
}

// shards splits a checkpoint's file in two with an index.
func shards(t *testing.T, cfg model.Config) (dir string, index map[string]string) {
	t.Helper()
	dir = folder(t, cfg, WriteOptions{})
	index = map[string]string{}
	entries := Layout(cfg, HuggingFace, newNoise(cfg), F32)
	for i, part := range [][]Entry{entries[:9], entries[9:]} {
		name := fmt.Sprintf("model-0000%d-of-00002.safetensors", i+1)
		if err := WriteSafetensors(filepath.Join(dir, name), part, nil); err != nil {
			t.Fatal(err)
		}
		for _, e := range part {
			index[e.Name] = name
		}
	}
	if err := os.Remove(dir + "/model.safetensors"); err != nil {
		t.Fatal(err)
	}
	putIndex(t, dir, "model.safetensors.index.json", index)
	return dir, index
}

func TestShards(t *testing.T) {
	for name, cfg := range map[string]model.Config{"plain": small(5, 6), "shared": small(2, 3)} {
		t.Run(name, func(t *testing.T) {
			dir, _ := shards(t, cfg)
			c := open(t, dir)
			for _, p := range cfg.Params() {
				sameFloats(t, p, c, newNoise(cfg))
			}
			if sum, err := c.Checksum(); err != nil || len(sum) != 64 {
				t.Errorf("checksum %q, %v", sum, err)
			}
		})
	}
}

func TestBadIndex(t *testing.T) {
	const name = "gpt_neox.embed_in.weight"
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string, index map[string]string)
		want  []string
	}{
		{"missing shard", func(t *testing.T, dir string, index map[string]string) { os.Remove(filepath.Join(dir, index[name])) }, []string{"00001-of-00002", "no such file"}},
		{"tensor elsewhere", func(t *testing.T, dir string, index map[string]string) {
			index[name] = "model-00002-of-00002.safetensors"
			putIndex(t, dir, "model.safetensors.index.json", index)
		}, []string{"index.json", name, "00002-of-00002", "00001-of-00002"}},
		{"tensor nowhere", func(t *testing.T, dir string, index map[string]string) {
			index["gpt_neox.more"] = index[name]
			putIndex(t, dir, "model.safetensors.index.json", index)
		}, []string{"index.json", "gpt_neox.more", "found none"}},
		{"unlisted tensor", func(t *testing.T, dir string, index map[string]string) {
			delete(index, name)
			putIndex(t, dir, "model.safetensors.index.json", index)
		}, []string{"index.json", name, `expected it in ""`}},
		{"path outside", func(t *testing.T, dir string, index map[string]string) {
			index[name] = "../model.safetensors"
			putIndex(t, dir, "model.safetensors.index.json", index)
		}, []string{"index.json", name, "in the same folder"}},
		{"empty map", func(t *testing.T, dir string, index map[string]string) {
			putIndex(t, dir, "model.safetensors.index.json", nil)
		}, []string{"index.json", "weight_map"}},
		{"no JSON", func(t *testing.T, dir string, index map[string]string) {
			put(t, dir, "model.safetensors.index.json", []byte("x"))
		}, []string{"index.json", "expected a JSON object"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, index := shards(t, small(2, 3))
			c.spoil(t, dir, index)
			_, err := Open(dir)
			refused(t, err, ui.ExitInput, append(c.want, dir)...)
		})
	}
}

func FuzzIndex(f *testing.F) {
	for _, s := range []string{`{"weight_map":{"a":"b.safetensors"}}`, `{"weight_map":{"a":"../b"}}`, `{"weight_map":{"a":""}}`, `{"weight_map":{}}`, `[]`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		index, err := parseIndex(data)
		if err != nil {
			return
		}
		for tensor, file := range index {
			if dir := filepath.Dir(filepath.Join("/folder", file)); dir != "/folder" {
				t.Errorf("tensor %s: file %q leads to %s", tensor, file, dir)
			}
		}
	})
}

func TestCompanionsAndConfigAreKept(t *testing.T) {
	from := t.TempDir()
	for _, name := range []string{"tokenizer.json", "generation_config.json", "notes.txt"} {
		put(t, from, name, []byte(name))
	}
	dir := folder(t, small(2, 3), WriteOptions{Tokenizer: from, Config: []byte(`{"mine": 1}`)})
	for _, name := range []string{"tokenizer.json", "generation_config.json"} {
		if got := string(get(t, filepath.Join(dir, name))); got != name {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "notes.txt")); err == nil {
		t.Error("notes.txt was copied")
	}
	if !strings.Contains(string(get(t, dir+"/config.json")), `"mine": 1`) {
		t.Error("config.json lost a member of its source")
	}
}

// TestWriteGolden pins the bytes of a written file.
func TestWriteGolden(t *testing.T) {
	for d, want := range map[DType]string{
		F32:  "801e6fe27d4c314d1539de70bc11b6d4af5c54f21cc0bf77806590d3d394d5c3",
		F16:  "1b02f6e413dab5fe0ad90d868433cebbd94209417c974797ca5cb6744061ca76",
		BF16: "394e68ddab6d18ffb4385fa81e892b62ecd310f38a1598bb49cfd7d8e2cc5ced",
	} {
		dir := folder(t, small(2, 3), WriteOptions{DType: d})
		sum := sha256.Sum256(get(t, dir+"/model.safetensors"))
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%s: SHA-256 %s, expected %s", d, got, want)
		}
	}
}

// BenchmarkOpen160M opens a checkpoint of the size of Pythia-160M and asks for
// every parameter. What it allocates, and what stays in memory while it is
// open, would be hundreds of MiB if anything were copied.
func BenchmarkOpen160M(b *testing.B) {
	cfg, err := model.Sized("pythia-160m")
	if err != nil {
		b.Fatal(err)
	}
	cfg.Owner, _ = model.ContiguousOwners(cfg.Layers, 6)
	dir := b.TempDir()
	if err := Write(dir, cfg, zeros{cfg}, WriteOptions{}); err != nil {
		b.Fatal(err)
	}
	debug.FreeOSMemory()
	b.ReportAllocs()
	before, resident := residentBytes(), int64(0)
	for b.Loop() {
		c, err := Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		for _, p := range cfg.Params() {
			if _, err := c.Float32(p.Name); err != nil {
				b.Fatal(err)
			}
		}
		resident = max(resident, residentBytes()-before)
		c.Close()
	}
	b.ReportMetric(float64(resident)/(1<<20), "RSS-MiB")
}

// residentBytes is the memory of this process that is in RAM, 0 where the
// system does not tell.
func residentBytes() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	fmt.Sscan(string(data), &size, &resident)
	return resident * int64(os.Getpagesize())
}

// zeros are a model's weights, all 0.
type zeros struct{ cfg model.Config }

func (z zeros) Float32(name string) ([]float32, error) {
	for _, p := range z.cfg.Params() {
		if p.Name == name {
			return make([]float32, p.Size()), nil
		}
	}
	return nil, fmt.Errorf("no parameter %s", name)
}
