package convert

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/blas"
	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/model"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// randomRows are full rows of shard: 9 tokens below the vocabulary of small.
func randomRows(n int) [][]uint16 {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([][]uint16, n)
	for i := range out {
		for range 9 {
			out[i] = append(out[i], uint16(r.IntN(40)))
		}
	}
	return out
}

// absorbing are options of a start by absorption on a shard.
func absorbing(source, shard string) Options {
	return Options{
		Source: source, Start: "absorb", Observer: onCPU, Engine: onCPU,
		Calibration: Calibration{Paths: []string{shard}, Rows: 32, Seed: 3},
	}
}

func TestAbsorb(t *testing.T) {
	dir, sum := tokenized(t)
	o := absorbing(dir, shard(t, sum, randomRows(64)...))
	o.Check = o.Calibration.Paths
	o.LayerMap, o.KVHeads = "0_0_2_2_2_5", 2
	o.Output = filepath.Join(t.TempDir(), "out")
	s, stdout := streams()
	if err := Run(context.Background(), o, s); err != nil {
		t.Fatal(err)
	}
	r := readReport(t, o.Output)
	if r.Start != "absorb" || r.Pooling != "" || r.Absorbed == nil || r.Check == nil {
		t.Fatalf("start %q, pooling %q, absorbed %v, check %v", r.Start, r.Pooling, r.Absorbed, r.Check)
	}
	a := r.Absorbed
	if a.Tokens != 32*8 || a.Rows != 32 || len(a.Heads) != 6 || len(a.Owners) != 3 || len(a.Layers) != 6 {
		t.Errorf("%d tokens, %d rows, %d heads, %d owners, %d layers; expected 256, 32, 6, 3, 6",
			a.Tokens, a.Rows, len(a.Heads), len(a.Owners), len(a.Layers))
	}
	for _, h := range a.Heads {
		sources := map[int]int{0: 6, 2: 9, 5: 3}[h.Layer]
		if h.Sources != sources || !(*h.Key > 0 && *h.Key <= 1 && *h.Value > 0 && *h.Value <= 1) {
			t.Errorf("head %+v, expected %d sources and shares within 0 and 1", h, sources)
		}
	}
	if !strings.Contains(stdout.String(), "variance of keys explained") {
		t.Errorf("the table lacks the variance explained:\n%s", stdout)
	}
	how := map[string]string{}
	for _, tensor := range r.Tensors {
		how[tensor.Name] = tensor.How
		if strings.HasSuffix(tensor.Name, "layers.2.attention.key.weight") {
			if len(tensor.From) != 3 || fmt.Sprint(tensor.From[1].Heads) != "[[0 1 2] [3 4 5]]" {
				t.Errorf("%s is from %+v", tensor.Name, tensor.From)
			}
		}
	}
	for name, want := range map[string]string{
		"attention.key.weight": "fitted", "attention.value.bias": "fitted", "attention.query.weight": "folded", "attention.query.bias": "folded",
		"attention.dense.weight": "folded", "attention.dense.bias": "kept", "input_layernorm.weight": "kept", "mlp.dense_h_to_4h.weight": "grown",
	} {
		if got := how[model.LayerName(2, name)]; got != want {
			t.Errorf("%s is %s, expected %s", name, got, want)
		}
	}
	if _, ok := r.Provenance.Inputs[o.Calibration.Paths[0]]; !ok {
		t.Errorf("provenance names the inputs %v, not the calibration", r.Provenance.Inputs)
	}
}

// TestAbsorbDemoBase: on the base of the demonstration, whose keys and values
// mean something, absorption starts far nearer to the base than pooling does.
func TestAbsorbDemoBase(t *testing.T) {
	const base = "../../demo/base"
	tok, err := tokenizer.Load(base)
	if err != nil {
		t.Skipf("no base of the demonstration: %v", err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(data)
	}
	corpus := filepath.Join(t.TempDir(), "corpus.txt")
	if err := os.WriteFile(corpus, []byte(text.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	held := tok.AppendEncode(nil, text.String())
	held = held[len(held)-8*128:]
	var rows [][]uint16
	for at := 0; at+128 <= len(held); at += 128 {
		rows = append(rows, held[at:at+128])
	}
	s, _ := streams()
	for _, layout := range []string{"0_0_2_2_4_4_6_6x4", "0_0_0_0_4_4_4_4x1"} {
		var loss [3]*Check
		for i, start := range []string{"pooling", "absorb", "absorb"} {
			o := absorbing(base, corpus)
			if i == 2 {
				o.Weighted, o.Refit = true, 1
			}
			o.Start, o.Check = start, []string{wideShard(t, tok.Checksum(), 128, rows...)}
			o.Calibration.RowLength, o.Calibration.Rows, o.CheckRows = 128, 64, 8
			o.LayerMap = strings.Split(layout, "x")[0]
			fmt.Sscan(strings.Split(layout, "x")[1], &o.KVHeads)
			o.Output = filepath.Join(t.TempDir(), "out")
			if err := Run(context.Background(), o, s); err != nil {
				t.Fatal(err)
			}
			loss[i] = readReport(t, o.Output).Check
		}
		pooled, absorbed, base := loss[0].After, loss[1].After, loss[0].Before
		if refined := loss[2].After; refined >= absorbed {
			t.Errorf("%s: the loss of %.3f after absorption is %.3f with weights and a refit, expected less", layout, absorbed, refined)
		}
		if absorbed-base > (pooled-base)/2 {
			t.Errorf("%s: the loss of %.3f rises to %.3f by pooling and %.3f by absorption, expected less than half of the rise", layout, base, pooled, absorbed)
		}
	}
}

// TestAbsorbKeepsHeads: heads that stand for themselves alone are not fitted.
func TestAbsorbKeepsHeads(t *testing.T) {
	dir, sum := tokenized(t)
	calibration := shard(t, sum, randomRows(64)...)
	want := converted(t, dir, Options{})
	unshared := absorbing(dir, calibration)
	unshared.Observer = func() (engine.Engine, error) {
		t.Error("the calibration runs though no head is shared")
		return onCPU()
	}
	equalModels(t, converted(t, dir, unshared), want, 0)
	o := absorbing(dir, calibration)
	o.LayerMap, o.Grow = "0_1_2_3_4_4", "none"
	got := converted(t, dir, o)
	for _, p := range got.Config().Params() {
		if p.Layer < 4 && !slices.Equal(floats(t, got, p.Name), floats(t, want, p.Name)) {
			t.Errorf("%s changed though its layer shares with none", p.Name)
		}
	}
}

// TestAbsorbIsDeterministic: the same weights for any number of threads, other
// ones for another seed.
func TestAbsorbIsDeterministic(t *testing.T) {
	dir, sum := tokenized(t)
	o := absorbing(dir, shard(t, sum, randomRows(64)...))
	o.KVLayers, o.KVHeads = 2, 1
	defer blas.SetThreads(0)
	weights := func() []byte {
		o.Output = filepath.Join(t.TempDir(), "out")
		s, _ := streams()
		if err := Run(context.Background(), o, s); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(o.Output, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	blas.SetThreads(1)
	first := weights()
	for _, threads := range []int{2, 5} {
		blas.SetThreads(threads)
		if !slices.Equal(weights(), first) {
			t.Errorf("%d threads give other weights than 1", threads)
		}
	}
	o.Calibration.Seed++
	if slices.Equal(weights(), first) {
		t.Error("another seed gives the same weights")
	}
}

func TestAbsorbRefusals(t *testing.T) {
	dir, sum := tokenized(t)
	good := shard(t, sum, randomRows(64)...)
	borrowing := small()
	borrowing.Owner, _ = model.ParseOwnerMap("0_0_2_2_4_4")
	borrowing.SharedKeyRotary = model.RotaryBefore
	before := folder(t, borrowing, checkpoint.WriteOptions{})
	text := filepath.Join(t.TempDir(), "x.txt")
	if err := os.WriteFile(text, []byte("text"), 0o666); err != nil {
		t.Fatal(err)
	}
	same := slices.Repeat([][]uint16{{7, 7, 7, 7, 7, 7, 7, 7, 7}}, 64)
	for _, c := range []struct {
		name   string
		change func(o *Options)
		code   int
		want   []string
	}{
		{"no calibration", func(o *Options) { o.Calibration.Paths = nil }, ui.ExitUsage, []string{"calibration", "found none", "--calibration"}},
		{"unknown start", func(o *Options) { o.Start = "absorbed" }, ui.ExitUsage, []string{"start: expected one of pooling, absorb", "did you mean absorb?"}},
		{"before rotary", func(o *Options) { o.SharedKeyRotary = model.RotaryBefore }, ui.ExitUsage, []string{"shared_key_rotary: expected after, found before"}},
		{"the authors' preset", func(o *Options) { o.Preset = "authors" }, ui.ExitUsage, []string{"shared_key_rotary: expected after, found before"}},
		{"source before rotary", func(o *Options) { o.Source, o.KVLayers = before, 3 }, ui.ExitUsage, []string{"source that shares keys after rotary, found before"}},
		{"key/value MLPs", func(o *Options) { o.KeyValueMLP = true }, ui.ExitUsage, []string{"key_value_mlp"}},
		{"missing", func(o *Options) { o.Calibration.Paths = []string{"nowhere.rows"} }, ui.ExitInput, []string{"nowhere.rows"}},
		{"shards and text", func(o *Options) { o.Calibration.Paths = []string{good, text} }, ui.ExitUsage, []string{"packed shards or text, found both"}},
		{"text without a tokenizer", func(o *Options) {
			o.Source, o.Calibration.Paths = folder(t, small(), checkpoint.WriteOptions{}), []string{text}
		}, ui.ExitInput, []string{"tokenizer.json"}},
		{"too few tokens", func(o *Options) { o.Calibration.Rows = 3 }, ui.ExitInput, []string{"calibration", "at least 25 tokens", "hidden size 24", "found 24", "200 or more"}},
		{"another tokenizer", func(o *Options) {
			o.Calibration.Paths = []string{shard(t, strings.Repeat("ab", 32), randomRows(64)...)}
		}, ui.ExitInput, []string{"tokenizer", sum}},
		{"id beyond the vocabulary", func(o *Options) {
			o.Calibration.Paths = []string{shard(t, sum, append(randomRows(31), []uint16{1, 40})...)}
		}, ui.ExitInput, []string{"id 40", "another tokenizer"}},
		{"no observer", func(o *Options) { o.Observer = nil }, ui.ExitUsage, []string{"engine"}},
		{"negative rows", func(o *Options) { o.Calibration.Rows = -1 }, ui.ExitUsage, []string{"calibration.rows", "-1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := absorbing(dir, good)
			o.KVLayers, o.KVHeads = 2, 1
			c.change(&o)
			parent := t.TempDir()
			o.Output = filepath.Join(parent, "out")
			s, _ := streams()
			err := Run(context.Background(), o, s)
			if got := ui.ExitCode(err); got != c.code {
				t.Errorf("exit code %d, expected %d: %v", got, c.code, err)
			}
			for _, want := range c.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("the message lacks %q: %v", want, err)
				}
			}
			if left := entries(t, parent); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	t.Run("singular inputs", func(t *testing.T) {
		o := absorbing(dir, shard(t, sum, same...))
		o.KVLayers, o.KVHeads = 2, 1
		o.Output = filepath.Join(t.TempDir(), "out")
		s, _ := streams()
		if err := Run(context.Background(), o, s); err != nil {
			t.Fatal(err)
		}
		if got := readReport(t, o.Output).Absorbed.Owners[0].Dependent; got < 20 {
			t.Errorf("%d dependent inputs of one token repeated, expected nearly all of 25", got)
		}
		if note := fmt.Sprint(s.Err); !strings.Contains(note, "of 25 inputs follow from the others") {
			t.Errorf("no note on singular inputs: %s", note)
		}
		if err := open(t, o.Output).CheckFinite(); err != nil {
			t.Error(err)
		}
	})
}
