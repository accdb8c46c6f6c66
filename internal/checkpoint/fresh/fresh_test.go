package fresh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/golden"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

func streams() (ui.Streams, *bytes.Buffer) {
	var out bytes.Buffer
	return ui.Streams{In: strings.NewReader(""), Out: &out, Err: new(bytes.Buffer), Width: 80}, &out
}

func moments(x []float32) (mean, deviation, kurtosis float64) {
	n := float64(len(x))
	for _, v := range x {
		mean += float64(v) / n
	}
	square, fourth := 0.0, 0.0
	for _, v := range x {
		d := float64(v) - mean
		square += d * d / n
		fourth += d * d * d * d / n
	}
	return mean, math.Sqrt(square), fourth / square / square
}

// TestDistributions holds the moments of each kind of tensor against Pythia's
// initialisation.
func TestDistributions(t *testing.T) {
	cfg := model.Plain(1000, 256, 8, 4)
	w := New(cfg, 3)
	small, wang := math.Sqrt(2.0/(5*256)), 2/(8*math.Sqrt(256))
	for name, want := range map[string]float64{
		model.EmbedIn: small, model.EmbedOut: small,
		model.LayerName(2, model.Query) + ".weight":        small,
		model.LayerName(2, model.Value) + ".weight":        small,
		model.LayerName(2, model.MLPIn) + ".weight":        small,
		model.LayerName(2, model.AttentionOut) + ".weight": wang,
		model.LayerName(2, model.MLPOut) + ".weight":       wang,
	} {
		x, err := w.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		mean, deviation, kurtosis := moments(x)
		n := math.Sqrt(float64(len(x)))
		if math.Abs(mean) > 5*want/n || math.Abs(deviation/want-1) > 5/n || math.Abs(kurtosis-3) > 25/n {
			t.Errorf("%s: mean %g, deviation %g, kurtosis %g; expected 0, %g, 3", name, mean, deviation, kurtosis, want)
		}
	}
	for name, want := range map[string]float32{
		model.LayerName(1, model.InputNorm) + ".weight":  1,
		model.LayerName(1, model.InputNorm) + ".bias":    0,
		model.FinalNormName + ".weight":                  1,
		model.LayerName(1, model.AttentionOut) + ".bias": 0,
	} {
		x, err := w.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Min(x) != want || slices.Max(x) != want {
			t.Errorf("%s: from %g to %g, expected %g", name, slices.Min(x), slices.Max(x), want)
		}
	}
	if _, err := w.Float32("nothing"); err == nil {
		t.Error("a parameter that the model lacks was drawn")
	}
}

// TestDrawsDoNotDependOnThreads draws with different numbers of processors and
// pins the result.
func TestDrawsDoNotDependOnThreads(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2, 5} {
		runtime.GOMAXPROCS(procs)
		x := make([]float32, 5*block+7)
		Normal(x, 1, 42, "name")
		y := make([]float32, 5*block+7)
		Uniform(y, 0.5, 42, "name")
		data := checkpoint.FromFloat32([]int{len(x) + len(y)}, slices.Concat(x, y))
		sum := sha256.Sum256(data.Data)
		const want = "9f3061e350a0a263c849df84cc51163918189c6e9966f301f1f0dcec7a021de2"
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%d processors: SHA-256 %s, expected %s", procs, got, want)
		}
		if least, most := slices.Min(y), slices.Max(y); least < -0.5 || most >= 0.5 || most < 0.499 || least > -0.499 {
			t.Errorf("uniform draws from %g to %g, expected about -0.5 to 0.5", least, most)
		}
	}
	a, b := make([]float32, 10), make([]float32, 10)
	Normal(a, 1, 1, "name")
	Normal(b, 1, 2, "name")
	if slices.Equal(a, b) {
		t.Error("two seeds give the same draws")
	}
	Normal(b, 1, 1, "other")
	if slices.Equal(a, b) {
		t.Error("two names give the same draws")
	}
}

const tiny = "vocab_size: 40\nhidden_size: 24\nnum_hidden_layers: 4\nnum_attention_heads: 3\n"

func TestRun(t *testing.T) {
	dir := t.TempDir()
	sizes := filepath.Join(dir, "tiny.yaml")
	text := tiny + "rotary_pct: 0.5\nnum_key_value_layers: 2\nnum_key_value_heads: 1\n"
	if err := os.WriteFile(sizes, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	var sums [2]string
	for i := range sums {
		s, stdout := streams()
		out := filepath.Join(dir, fmt.Sprint("out", i))
		if err := Run(context.Background(), Options{Size: sizes, Output: out, Seed: 5}, s); err != nil {
			t.Fatal(err)
		}
		c, err := checkpoint.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cfg := c.Config()
		if cfg.IntermediateSize != 96 || cfg.Owner.String() != "0_0_2_2" || cfg.SharedKeyRotary != model.RotaryAfter {
			t.Errorf("config %+v", cfg)
		}
		if !strings.Contains(stdout.String(), "seed 5") {
			t.Errorf("output %q", stdout)
		}
		if sums[i], err = c.Checksum(); err != nil {
			t.Fatal(err)
		}
	}
	if sums[0] != sums[1] {
		t.Error("the same seed gave two checkpoints")
	}
}

// TestMapsOfDigits: owner maps need no quotes, though YAML takes them for numbers.
func TestMapsOfDigits(t *testing.T) {
	for _, m := range []string{"0_1_1_3", "0_0_0_0", "0_1_2_3_4_5_6_7_8_9_10_11_12_13_14_15_16_17_18_19_20_20_20_20"} {
		layers := strings.Count(m, "_") + 1
		cfg, err := parseSizes([]byte(strings.Replace(tiny, "layers: 4", fmt.Sprint("layers: ", layers), 1) + "layer_map: " + m + "\n"))
		if err != nil || cfg.Owner.String() != m {
			t.Errorf("%s: found %s: %v", m, cfg.Owner, err)
		}
	}
}

func TestSeparateOwners(t *testing.T) {
	cfg, err := parseSizes([]byte(tiny + "rotary_pct: 0.5\nlayer_map: 0_0_2_2\nvalue_layer_map: '0_1_1_1'\n"))
	if err != nil || cfg.Owner.String() != "0_0_2_2" || cfg.ValueOwner.String() != "0_1_1_1" {
		t.Fatalf("keys of %s, values of %s: %v", cfg.Owner, cfg.ValueOwner, err)
	}
	dir := t.TempDir()
	if err := checkpoint.Write(dir, cfg, New(cfg, 1), checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestTokenizerIsCopied(t *testing.T) {
	tokenizer := golden.File(t, "data", "tokenizer", "20B_tokenizer.json")
	sizes := filepath.Join(t.TempDir(), "s.yaml")
	text := strings.Replace(tiny, "vocab_size: 40", "vocab_size: 50277\nrotary_pct: 0.5", 1)
	if err := os.WriteFile(sizes, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	s, _ := streams()
	out := filepath.Join(t.TempDir(), "out")
	if err := Run(context.Background(), Options{Size: sizes, Output: out, Tokenizer: tokenizer}, s); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(tokenizer)
	b, err := os.ReadFile(filepath.Join(out, "tokenizer.json"))
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("tokenizer.json was not copied: %v", err)
	}
	if err := os.WriteFile(sizes, []byte(strings.Replace(text, "50277", "50276", 1)), 0o666); err != nil {
		t.Fatal(err)
	}
	err = Run(context.Background(), Options{Size: sizes, Output: out, Tokenizer: tokenizer, Force: true}, s)
	if ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(fmt.Sprint(err), "50276") {
		t.Errorf("a vocabulary that is too small: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	yaml := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name string
		o    Options
		code int
		want []string
	}{
		{"no size", Options{}, ui.ExitUsage, []string{"size", "pythia-160m"}},
		{"unknown name", Options{Size: "pythia-161m"}, ui.ExitUsage, []string{"pythia-161m", "did you mean pythia-160m?"}},
		{"unknown key", Options{Size: yaml("a.yaml", tiny+"hiden_size: 3\n")}, ui.ExitUsage, []string{"a.yaml", "hiden_size", "did you mean hidden_size?"}},
		{"missing key", Options{Size: yaml("b.yaml", "vocab_size: 40\n")}, ui.ExitUsage, []string{"b.yaml", "hidden_size"}},
		{"no number", Options{Size: yaml("c.yaml", strings.Replace(tiny, "24", "many", 1))}, ui.ExitUsage, []string{"c.yaml", "hidden_size", "many"}},
		{"heads do not divide", Options{Size: yaml("d.yaml", strings.Replace(tiny, "heads: 3", "heads: 5", 1))}, ui.ExitUsage, []string{"d.yaml", "num_attention_heads 5"}},
		{"another length", Options{Size: yaml("f.yaml", tiny+"value_layer_map: '0_0'\n")}, ui.ExitUsage, []string{"f.yaml", "value_layer_map: expected 4 layers"}},
		{"no YAML", Options{Size: yaml("e.yaml", "\t:")}, ui.ExitUsage, []string{"e.yaml"}},
		{"unknown type", Options{Size: "pythia-14m", DType: "float8"}, ui.ExitUsage, []string{"dtype", "float8"}},
		{"missing tokenizer", Options{Size: "pythia-14m", Tokenizer: filepath.Join(dir, "none")}, ui.ExitInput, []string{"none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := t.TempDir()
			c.o.Output = filepath.Join(parent, "out")
			s, _ := streams()
			err := Run(context.Background(), c.o, s)
			if ui.ExitCode(err) != c.code {
				t.Errorf("exit code %d, expected %d: %v", ui.ExitCode(err), c.code, err)
			}
			for _, want := range c.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("the message lacks %q: %v", want, err)
				}
			}
			if left, _ := os.ReadDir(parent); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func FuzzSizes(f *testing.F) {
	f.Add([]byte(tiny))
	f.Add([]byte(tiny + "layer_map: '0_0_2_2'\nvalue_layer_map: '0_1_1_1'\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("? [x]\n: 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if cfg, err := parseSizes(data); err == nil && cfg.Validate() != nil {
			t.Errorf("accepted %+v", cfg)
		}
	})
}
