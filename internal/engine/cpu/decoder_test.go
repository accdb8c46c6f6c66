package cpu

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// TestExtend: greedy tokens are those that the logits of step after step name.
func TestExtend(t *testing.T) {
	cfg := small(t, "0_0_2_2", 2, model.RotaryBefore)
	o := engine.DecodeOptions{Rows: 3, MaxSize: 12}
	const steps = 6
	open := func() (engine.Decoder, []int32) {
		dec, err := Open(0).Decoder(cfg, random(cfg, 3), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dec.Close() })
		var prompts [][]int32
		var last []int32
		for r := range o.Rows {
			p := randomTokens(2+r, cfg.VocabSize, uint64(r))
			prompts, last = append(prompts, p[:len(p)-1]), append(last, p[len(p)-1])
		}
		if _, err := dec.Prefill(background, prompts); err != nil {
			t.Fatal(err)
		}
		return dec, last
	}
	dec, last := open()
	got, err := dec.Extend(background, last, steps)
	if err != nil {
		t.Fatal(err)
	}
	dec, tokens := open()
	for s := range steps {
		logits, err := dec.Next(background, tokens)
		if err != nil {
			t.Fatal(err)
		}
		for r := range tokens {
			row := logits[r*cfg.VocabSize : (r+1)*cfg.VocabSize]
			tokens[r] = int32(slices.Index(row, slices.Max(row)))
			if got[r*steps+s] != tokens[r] {
				t.Fatalf("row %d, step %d: chose %d, the logits say %d", r, s, got[r*steps+s], tokens[r])
			}
		}
	}
}

// TestFill: what follows depends on the seed and on the cache's whole length,
// and a filled cache takes as many tokens as are left.
func TestFill(t *testing.T) {
	cfg := small(t, "0_1_0_1", 1, model.RotaryAfter)
	const rows, size = 2, 40
	dec, err := Open(0).Decoder(cfg, random(cfg, 3), engine.DecodeOptions{Rows: rows, MaxSize: size})
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	next := func(length int, seed uint64) []float32 {
		t.Helper()
		if err := dec.Fill(background, length, seed); err != nil {
			t.Fatal(err)
		}
		logits, err := dec.Next(background, []int32{5, 5})
		if err != nil {
			t.Fatal(err)
		}
		return slices.Clone(logits)
	}
	a := next(30, 1)
	if !slices.Equal(a, next(30, 1)) {
		t.Error("equal seeds gave different contents")
	}
	if slices.Equal(a, next(30, 2)) || slices.Equal(a, next(29, 1)) {
		t.Error("another seed or length gave the same logits")
	}
	if slices.Equal(a[:cfg.VocabSize], a[cfg.VocabSize:]) {
		t.Error("both rows were filled alike")
	}
	if err := dec.Fill(background, 30, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := dec.Extend(background, []int32{1, 2}, size-30); err != nil {
		t.Errorf("a cache of %d tokens in %d: %v", 30, size, err)
	}
	if _, err := dec.Next(background, []int32{1, 2}); err == nil {
		t.Error("a full cache took another token")
	}
	for _, length := range []int{0, size + 1} {
		if err := dec.Fill(background, length, 1); err == nil {
			t.Errorf("filled %d tokens of %d", length, size)
		}
	}
}

func TestResize(t *testing.T) {
	cfg := small(t, "0_0_2_2", 2, model.RotaryAfter)
	dec, err := Open(0).Decoder(cfg, random(cfg, 3), engine.DecodeOptions{Rows: 1, MaxSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	weights := int64(cfg.Parameters()) * 4
	for _, o := range []engine.DecodeOptions{{Rows: 2, MaxSize: 10}, {Rows: 5, MaxSize: 3, CacheBits: 32}} {
		if err := dec.Resize(o); err != nil {
			t.Fatal(err)
		}
		m := dec.Memory()
		if want := int64(cfg.KVBytes(o.Rows, o.MaxSize, 4)); m.Cache != want || dec.CacheBytes() != want || m.Weights != weights {
			t.Errorf("%+v: memory %+v, expected a cache of %d and weights of %d", o, m, want, weights)
		}
		if err := dec.Fill(background, o.MaxSize-1, 1); err != nil {
			t.Error(err)
		}
		if _, err := dec.Next(background, make([]int32, o.Rows)); err != nil {
			t.Error(err)
		}
		// The limit is exact: what is held fits, a byte less does not.
		o.MemoryLimit = m.Total()
		if err := dec.Resize(o); err != nil {
			t.Errorf("limit of what is held: %v", err)
		}
		o.MemoryLimit--
		if err := dec.Resize(o); !errors.Is(err, engine.ErrOutOfMemory) {
			t.Errorf("limit of a byte less than is held: %v", err)
		}
		if _, err := dec.Next(background, make([]int32, o.Rows)); err == nil || dec.CacheBytes() != 0 {
			t.Error("a decoder without a cache decodes")
		}
	}
	if err := dec.Resize(engine.DecodeOptions{Rows: 1 << 20, MaxSize: 1 << 20}); !errors.Is(err, engine.ErrOutOfMemory) {
		t.Errorf("a cache larger than the machine: %v", err)
	}
	if err := dec.Resize(engine.DecodeOptions{Rows: 1, MaxSize: 1, CacheBits: 8}); err == nil || !strings.Contains(err.Error(), "has 32") {
		t.Errorf("a cache of 8 bits: %v", err)
	}
}

// TestResident: a cache is resident once it is filled, and no longer after the
// decoder has another size.
func TestResident(t *testing.T) {
	eng := Open(0)
	before := eng.Info().Used
	if before == 0 {
		if runtime.GOOS == "linux" {
			t.Fatal("a process holds no memory")
		}
		t.Skip("only Linux tells a process's resident memory")
	}
	cfg := small(t, "0_0_2_2", 2, model.RotaryAfter)
	const rows = 4
	size := (64 << 20) / cfg.KVBytes(rows, 1, 4)
	dec, err := eng.Decoder(cfg, random(cfg, 3), engine.DecodeOptions{Rows: rows, MaxSize: size})
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	if err := dec.Fill(background, size, 1); err != nil {
		t.Fatal(err)
	}
	cache, grown := dec.CacheBytes(), eng.Info().Used-before
	if max(grown-cache, cache-grown) > 16<<20 {
		t.Errorf("a filled cache of %d bytes made %d resident", cache, grown)
	}
	if err := dec.Resize(engine.DecodeOptions{Rows: 1, MaxSize: 1}); err != nil {
		t.Fatal(err)
	}
	if left := eng.Info().Used - before; left > 16<<20 {
		t.Errorf("%d bytes stayed resident", left)
	}
}
