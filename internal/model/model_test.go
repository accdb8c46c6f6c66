package model

import (
	"strings"
	"testing"
)

func TestContiguousOwners(t *testing.T) {
	for _, c := range []struct {
		layers, owners int
		want           string
	}{
		{12, 12, "0_1_2_3_4_5_6_7_8_9_10_11"},
		{12, 6, "0_0_2_2_4_4_6_6_8_8_10_10"},
		{12, 5, "0_0_2_2_4_4_4_7_7_9_9_9"}, // unequal groups, as the authors' code makes them
		{12, 4, "0_0_0_3_3_3_6_6_6_9_9_9"},
		{6, 4, "0_1_1_3_4_4"},
		{6, 1, "0_0_0_0_0_0"},
	} {
		m, err := ContiguousOwners(c.layers, c.owners)
		if err != nil {
			t.Fatal(err)
		}
		if m.String() != c.want {
			t.Errorf("%d layers, %d owners: %s, want %s", c.layers, c.owners, m, c.want)
		}
		if m.Owners() != c.owners || !m.Contiguous() {
			t.Errorf("%s: %d owners, contiguous %v", m, m.Owners(), m.Contiguous())
		}
	}
	for _, owners := range []int{0, -1, 13} {
		if _, err := ContiguousOwners(12, owners); err == nil {
			t.Errorf("12 layers took %d owners", owners)
		}
	}
}

func TestParseOwnerMap(t *testing.T) {
	m, err := ParseOwnerMap("0_1_0_1")
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Members(1); len(got) != 2 || got[0] != 1 || got[1] != 3 {
		t.Errorf("members of layer 1: %v", got)
	}
	if m.Contiguous() {
		t.Error("0_1_0_1 passes for contiguous")
	}
	for s, want := range map[string]string{
		"0_2_2":  "layer 1 names owner 2",
		"0_0_1":  "owns nothing itself",
		"0_x":    `found "x"`,
		"":       `found ""`,
		"1":      "layer 0 names owner 1",
		"0_-1_0": "layer 1 names owner -1",
	} {
		if _, err := ParseOwnerMap(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one that says %q", s, err, want)
		}
	}
}

// TestPaperRows checks sizes against the MLKV paper's table 2: bytes a token at
// 16 bits, and 162.32 to 162.33 million parameters for every row.
func TestPaperRows(t *testing.T) {
	for _, c := range []struct{ layers, heads, mlp, bytes int }{
		{12, 12, 3072, 36864}, {12, 4, 3584, 12288}, {4, 12, 3584, 12288}, {12, 1, 3777, 3072}, {4, 3, 3777, 3072},
		{6, 1, 3809, 1536}, {4, 1, 3819, 1024}, {2, 1, 3830, 512}, {1, 1, 3835, 256},
	} {
		cfg, err := Sized("pythia-160m")
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Owner, err = ContiguousOwners(12, c.layers); err != nil {
			t.Fatal(err)
		}
		cfg.KVHeads, cfg.IntermediateSize = c.heads, c.mlp
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		if got := cfg.KVBytes(1, 1, 2); got != c.bytes {
			t.Errorf("%dx%d: %d bytes a token, want %d", c.layers, c.heads, got, c.bytes)
		}
		if n := cfg.Parameters(); n < 162_315_000 || n > 162_335_000 {
			t.Errorf("%dx%d: %d parameters, want 162.32 to 162.33 million", c.layers, c.heads, n)
		}
		if got, want := cfg.Shared(), c.layers*c.heads != 144; got != want {
			t.Errorf("%dx%d: shared is %v", c.layers, c.heads, got)
		}
		sum := 0
		for _, n := range cfg.ParametersByPart() {
			sum += n
		}
		if sum != cfg.Parameters() {
			t.Errorf("%dx%d: parts add up to %d of %d", c.layers, c.heads, sum, cfg.Parameters())
		}
	}
}

func TestSuite(t *testing.T) {
	want := map[string]int{ // EleutherAI's own counts
		"pythia-70m": 70_426_624, "pythia-160m": 162_322_944, "pythia-410m": 405_334_016,
		"pythia-1b": 1_011_781_632, "pythia-1.4b": 1_414_647_808, "pythia-2.8b": 2_775_208_960,
		"pythia-6.9b": 6_857_302_016, "pythia-12b": 11_846_072_320,
	}
	for _, name := range SizeNames() {
		cfg, err := Sized(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n, ok := want[name]; ok && cfg.Parameters() != n {
			t.Errorf("%s: %d parameters, want %d", name, cfg.Parameters(), n)
		}
	}
	if _, err := Sized("pythia-3b"); err == nil || !strings.Contains(err.Error(), "pythia-2.8b") {
		t.Errorf("an unknown size: %v", err)
	}
}

func TestNamed(t *testing.T) {
	for name, hidden := range map[string]int{
		"pythia-160m": 768, "models/pythia-160m-deduped": 768, "EleutherAI/pythia-v1.1-410m-deduped": 1024, "pythia-2.8b": 2560,
		"pythia-160m-mlkv-6": 0, "pythia-3b": 0, "gpt-neox-20b": 0, "": 0,
	} {
		if c, ok := Named(name); ok != (hidden > 0) || c.HiddenSize != hidden {
			t.Errorf("%q: hidden size %d, known %v; want %d", name, c.HiddenSize, ok, hidden)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		field  string
		change func(*Config)
	}{
		{"hidden_size", func(c *Config) { c.HiddenSize = 770 }},
		{"num_key_value_heads", func(c *Config) { c.KVHeads = 5 }},
		{"vocab_size", func(c *Config) { c.VocabSize = 0 }},
		{"rotary_pct", func(c *Config) { c.RotaryPct = 1.5 }},
		{"rotary_pct", func(c *Config) { c.RotaryPct = 0.05 }}, // 3 channels
		{"layer_norm_eps", func(c *Config) { c.LayerNormEps = 0 }},
		{"shared_key_rotary", func(c *Config) { c.SharedKeyRotary = "during" }},
		{"layer_map", func(c *Config) { c.Owner = c.Owner[1:] }},
		{"layer_map", func(c *Config) { c.Owner = append(OwnerMap{1}, c.Owner[1:]...) }},
		{"value_layer_map", func(c *Config) { c.ValueOwner = c.Owner[1:] }},
		{"value_layer_map", func(c *Config) { c.ValueOwner = append(OwnerMap{1}, c.Owner[1:]...) }},
	} {
		cfg, _ := Sized("pythia-160m")
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.field) {
			t.Errorf("expected an error about %s, found %v", c.field, err)
		}
	}
}

// TestSeparateOwners: keys and values of separate owners have the tensors of these
// and no others, and count apart.
func TestSeparateOwners(t *testing.T) {
	cfg := Plain(40, 32, 4, 4)
	cfg.KVHeads = 1
	cfg = cfg.WithOwners(OwnerMap{0, 0, 0, 3}, OwnerMap{0, 1, 1, 1})
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, p := range cfg.Params() {
		has[p.Name] = true
	}
	for l, want := range []struct{ key, value bool }{{true, true}, {false, true}, {false, false}, {true, false}} {
		if key, value := has[LayerName(l, Key)+".weight"], has[LayerName(l, Value)+".bias"]; key != want.key || value != want.value {
			t.Errorf("layer %d: expected keys %v and values %v, found %v and %v", l, want.key, want.value, key, value)
		}
	}
	if want := (2 + 2) * 8; cfg.KVElements() != want {
		t.Errorf("expected %d cached elements a token, found %d", want, cfg.KVElements())
	}
	if same := cfg.WithOwners(cfg.Owner, OwnerMap{0, 0, 0, 3}); same.ValueOwner != nil {
		t.Errorf("expected one map where both are the same, found %v for values", same.ValueOwner)
	}
}
