package checkpoint

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestF16RoundTrip(t *testing.T) {
	for h := range 1 << 16 {
		f := f16to32(uint16(h))
		got := f32to16(f)
		if f != f { // NaN stays NaN
			if got&0x7c00 != 0x7c00 || got&0x3ff == 0 {
				t.Fatalf("%04x: NaN became %04x", h, got)
			}
			continue
		}
		if int(got) != h {
			t.Fatalf("%04x is %g, which became %04x", h, f, got)
		}
	}
}

func TestF16Values(t *testing.T) {
	for h, want := range map[uint16]float32{
		0x0000: 0, 0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0001: 0x1p-24, 0x03ff: 0x3ffp-24, 0x0400: 0x1p-14, 0x3555: 0x555p-12,
	} {
		if got := f16to32(h); got != want {
			t.Errorf("%04x: %g, expected %g", h, got, want)
		}
	}
	if f := f16to32(0x7c00); !math.IsInf(float64(f), 1) {
		t.Errorf("7c00: %g, expected infinity", f)
	}
}

// TestRounding holds both roundings against a search for the nearest number,
// ties to the even one.
func TestRounding(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name  string
		round func(float32) uint16
		value func(uint16) float32
		most  float64 // beyond it everything is infinite
	}{
		{"F16", f32to16, f16to32, 65520},
		{"BF16", f32tobf16, bf16to32, 0x1.ffp127},
	} {
		for i := range 200000 {
			x := math.Float32frombits(r.Uint32())
			switch i % 3 {
			case 0: // among the numbers of half precision, often between two
				x = float32(math.Ldexp(float64(r.IntN(1<<14)), r.IntN(36)-38))
			case 1:
				x = float32(r.NormFloat64())
			}
			if x != x || math.Abs(float64(x)) >= c.most {
				continue
			}
			got := c.round(x)
			d := math.Abs(float64(c.value(got)) - float64(x))
			for _, other := range []uint16{got - 1, got + 1} {
				v := float64(c.value(other))
				if math.IsNaN(v) || math.Abs(v) > c.most {
					continue
				}
				e := math.Abs(v - float64(x))
				if e < d || e == d && got&1 == 1 && other&0x7fff != 0 {
					t.Fatalf("%s: %g became %04x (%g), but %04x (%g) is nearer", c.name, x, got, c.value(got), other, v)
				}
			}
		}
	}
}

func TestBF16RoundTrip(t *testing.T) {
	for h := range 1 << 16 {
		f := bf16to32(uint16(h))
		if got := f32tobf16(f); int(got) != h && f == f {
			t.Fatalf("%04x is %g, which became %04x", h, f, got)
		}
	}
}
