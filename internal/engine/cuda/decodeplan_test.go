package cuda

import (
	"strings"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// TestDecodePlan: the cache is as large as the formula says, and no two of its parts
// overlap.
func TestDecodePlan(t *testing.T) {
	cfg, err := model.Sized("pythia-160m")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Owner, err = model.ParseOwnerMap("0_0_2_2_0_5_5_7_8_8_2_11"); err != nil {
		t.Fatal(err)
	}
	cfg.KVHeads = 3
	for _, c := range []struct {
		bits, size int
		elem       int64
	}{{0, 33, 2}, {16, 2048, 2}, {0, 33, 4}, {8, 33, 2}, {8, 2048, 4}} {
		p, err := planDecoder(cfg, engine.DecodeOptions{Rows: 5, MaxSize: c.size, CacheBits: c.bits}, c.elem)
		if err != nil {
			t.Fatal(err)
		}
		want := int64(cfg.KVBytes(5, c.size, int(c.elem)))
		if c.bits == 8 {
			even := roundTo(c.size, 2)
			want = int64(cfg.KVBytes(5, even, 1)) + int64(cfg.KVBytes(5, even, 2))/int64(cfg.HeadSize())
		}
		if got := p.cacheBytes(); got != want {
			t.Errorf("%+v: %d bytes, want %d", c, got, want)
		}
		part := p.positions() * int64(cfg.HeadSize()) * int64(p.bits) / 8
		used := map[int64]bool{}
		for _, o := range p.owners {
			k, v, ks, vs := p.place(o)
			for _, at := range []int64{k, v} {
				if at%part != 0 || at+part > p.cacheBytes()-p.scaleBytes() || used[at] {
					t.Errorf("%+v: owner %d has a part at %d of %d", c, o, at, p.cacheBytes())
				}
				used[at] = true
			}
			for _, at := range []int64{ks, vs} {
				if p.bits == 8 && (at < p.cacheBytes()-p.scaleBytes() || at+2*p.positions() > p.cacheBytes() || used[at]) {
					t.Errorf("%+v: owner %d has scales at %d of %d", c, o, at, p.cacheBytes())
				}
				used[at] = p.bits == 8
			}
		}
	}
	for _, o := range []engine.DecodeOptions{{Rows: 0, MaxSize: 1}, {Rows: 1, MaxSize: 0}, {Rows: 1, MaxSize: 1, CacheBits: 4}, {Rows: 1, MaxSize: 1, CacheBits: 32}} {
		if _, err := planDecoder(cfg, o, 2); err == nil {
			t.Errorf("%+v was accepted", o)
		} else if o.CacheBits != 0 && !strings.Contains(err.Error(), "has 16 and 8") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	cfg = cfg.WithOwners(cfg.Owner, make(model.OwnerMap, 12))
	if _, err := planDecoder(cfg, engine.DecodeOptions{Rows: 1, MaxSize: 8}, 2); err == nil || !strings.Contains(err.Error(), "value_layer_map") {
		t.Errorf("separate owners of values: expected an error about value_layer_map, found %v", err)
	}
}

// TestActivationsStaySmall: what a step needs besides weights and cache is a few
// hundredths of them at the largest batches.
func TestActivationsStaySmall(t *testing.T) {
	cfg, err := model.Sized("pythia-160m")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Owner, err = model.ContiguousOwners(12, 1); err != nil {
		t.Fatal(err)
	}
	cfg.KVHeads, cfg.IntermediateSize = 1, 3835
	p, err := planDecoder(pad(cfg), engine.DecodeOptions{Rows: 140_000, MaxSize: 2048}, 2)
	if err != nil {
		t.Fatal(err)
	}
	rows := int64(p.o.Rows)
	step := rows*int64(cfg.HiddenSize)*6 + rows*int64(p.stride)*2 + int64(p.head)*int64(cfg.VocabSize)*4
	if share := float64(step) / float64(p.cacheBytes()); share > 0.035 {
		t.Errorf("activations are %.1f %% of the cache", 100*share)
	}
	if p.head > p.o.Rows || p.head%256 != 0 || int64(p.head)*int64(cfg.VocabSize)*4 > headBytes {
		t.Errorf("%d rows of logits at a time", p.head)
	}
}

func TestPrefillChunks(t *testing.T) {
	lengths := []int{5, 4000, 4096, 3, 8192, 9000, 1, 1, 1}
	next := 0
	for _, c := range prefillChunks(lengths) {
		if c.first != next || c.rows < 1 {
			t.Fatalf("chunk %+v, expected to begin at %d", c, next)
		}
		for _, n := range lengths[c.first : c.first+c.rows] {
			if n > c.length {
				t.Errorf("chunk %+v holds a prompt of %d", c, n)
			}
		}
		if c.rows > 1 && c.rows*c.length > prefillTokens || c.tokens() < c.rows*c.length {
			t.Errorf("chunk %+v has %d tokens", c, c.tokens())
		}
		next += c.rows
	}
	if next != len(lengths) {
		t.Errorf("%d prompts of %d are read", next, len(lengths))
	}
}
