package ui

import (
	"math"
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{FormatBytes(0), "0 B"},
		{FormatBytes(999), "999 B"},
		{FormatBytes(1023), "1.00 KiB"},
		{FormatBytes(1536), "1.50 KiB"},
		{FormatBytes(36864), "36.0 KiB"},
		{FormatBytes(75497472), "72.0 MiB"},
		{FormatBytes(math.MaxInt64), "8192 PiB"},
		{FormatBytes(-2048), "-2.00 KiB"},
		{FormatCount(0), "0"},
		{FormatCount(999), "999"},
		{FormatCount(1000), "1.00k"},
		{FormatCount(9999), "10.0k"},
		{FormatCount(99950), "100k"},
		{FormatCount(999999), "1.00M"},
		{FormatCount(162322944), "162M"},
		{FormatCount(5030000000), "5.03G"},
		{FormatRate(0.25), "0.25"},
		{FormatRate(math.NaN()), "-"},
		{FormatInt(0), "0"},
		{FormatInt(-999), "-999"},
		{FormatInt(1000), "1,000"},
		{FormatInt(-162322944), "-162,322,944"},
		{FormatDuration(0), "0ms"},
		{FormatDuration(450 * time.Millisecond), "450ms"},
		{FormatDuration(12340 * time.Millisecond), "12.3s"},
		{FormatDuration(59960 * time.Millisecond), "1m00s"},
		{FormatDuration(190 * time.Second), "3m10s"},
		{FormatDuration(2*time.Hour + 5*time.Minute), "2h05m"},
		{FormatDuration(76 * time.Hour), "3d04h"},
		{FormatDuration(-time.Minute), "-1m00s"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "17": 17, "17 B": 17, "1KiB": 1024, "1.5 GiB": 3 << 29, "40GB": 40e9, "2TiB": 2 << 40,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "x", "-1", "NaN", "Inf", "1 PiB?", "1GiBi", "1e30", "1 G"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q passed as %d", text, got)
		}
	}
}

func TestNearest(t *testing.T) {
	keys := []string{"uptrain.steps", "uptrain.seed", "convert.pooling"}
	for _, c := range []struct {
		word, want string
		ok         bool
	}{
		{"uptrain.step", "uptrain.steps", true},
		{"uptrain.setps", "uptrain.steps", true}, // a swap counts once
		{"convert.polling", "convert.pooling", true},
		{"zzz", "", false},
	} {
		got, ok := Nearest(c.word, keys)
		if got != c.want || ok != c.ok {
			t.Errorf("Nearest(%q) = %q, %v; want %q, %v", c.word, got, ok, c.want, c.ok)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"müde", "mude", 1}} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("editDistance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
