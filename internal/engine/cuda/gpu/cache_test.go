package gpu

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func testCache(t *testing.T) (*Cache, *[]string) {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var warnings []string
	return OpenCache("kernels", func(s string) { warnings = append(warnings, s) }), &warnings
}

func TestCacheKeepsWhatItIsGiven(t *testing.T) {
	c, warnings := testCache(t)
	if _, ok := c.Get("a"); ok {
		t.Fatal("an empty cache holds something")
	}
	for _, data := range [][]byte{{}, []byte("one"), bytes.Repeat([]byte{0}, 1<<20)} {
		c.Put("a", data)
		got, ok := c.Get("a")
		if !ok || !bytes.Equal(got, data) {
			t.Errorf("put %d bytes, got %d, %v", len(data), len(got), ok)
		}
	}
	left, err := filepath.Glob(filepath.Join(c.dir, ".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
	if len(*warnings) > 0 {
		t.Errorf("unexpected warnings: %q", *warnings)
	}
}

func TestCacheFirstOfTwoWins(t *testing.T) {
	c, _ := testCache(t)
	if got := c.PutNew("a", []byte("first")); string(got) != "first" {
		t.Errorf("got %q", got)
	}
	if got := c.PutNew("a", []byte("second")); string(got) != "first" {
		t.Errorf("the second put returned %q, want what the first left", got)
	}
}

func TestCacheNoticesDamage(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"cut short":  func(b []byte) []byte { return b[:len(b)-1] },
		"empty":      func([]byte) []byte { return nil },
		"bit turned": func(b []byte) []byte { b[3] ^= 1; return b },
		"sum turned": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			c, warnings := testCache(t)
			c.Put("a", []byte("content of some length"))
			path := filepath.Join(c.dir, "a")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(data), 0o644); err != nil {
				t.Fatal(err)
			}
			if got, ok := c.Get("a"); ok {
				t.Errorf("a damaged file was accepted: %q", got)
			}
			if len(*warnings) != 1 {
				t.Errorf("want one warning, got %q", *warnings)
			}
			if got := c.PutNew("a", []byte("new")); string(got) != "new" {
				t.Errorf("the damaged file was not replaced: %q", got)
			}
		})
	}
}

// A file in place of the folder fails for root too, unlike a read-only folder.
func TestCacheThatCannotBeWritten(t *testing.T) {
	c, warnings := testCache(t)
	if err := os.WriteFile(filepath.Dir(c.dir), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Put("a", []byte("x"))
	c.Put("b", []byte("y"))
	if got := c.PutNew("c", []byte("z")); string(got) != "z" {
		t.Errorf("got %q", got)
	}
	if len(*warnings) != 1 {
		t.Errorf("want one warning, got %q", *warnings)
	}
}

func TestKeyTellsPartsApart(t *testing.T) {
	if Key("ab", "c") == Key("a", "bc") {
		t.Error("different parts have one key")
	}
}
