package export

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// shared is a model whose layers borrow keys before rotary.
func shared() model.Config {
	c := model.Plain(40, 48, 5, 6)
	c.KVHeads, c.SharedKeyRotary = 2, model.RotaryBefore
	c.Owner, _ = model.ContiguousOwners(c.Layers, 2)
	return c
}

func run(t *testing.T, o Options) (string, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err := Run(context.Background(), o, ui.Streams{Out: &stdout, Err: &stderr})
	return stdout.String(), err
}

// TestThereAndBack exports to the authors' form and back: the same files.
func TestThereAndBack(t *testing.T) {
	for name, cfg := range map[string]model.Config{"shared": shared(), "plain": model.Plain(40, 48, 5, 6)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			source, theirs, again := filepath.Join(dir, "source"), filepath.Join(dir, "theirs"), filepath.Join(dir, "again")
			if err := os.Mkdir(source, 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(source, "tokenizer.json"), []byte("{}"), 0o666); err != nil {
				t.Fatal(err)
			}
			if err := checkpoint.Write(source, cfg, fresh.New(cfg, 3), checkpoint.WriteOptions{Config: []byte(`{"mine":1}`)}); err != nil {
				t.Fatal(err)
			}
			for _, o := range []Options{
				{Source: source, Output: theirs, Format: checkpoint.Authors},
				{Source: theirs, Output: again},
			} {
				if out, err := run(t, o); err != nil || !strings.Contains(out, ": "+ui.FormatInt(int64(cfg.Parameters()))+" parameters, format ") {
					t.Fatalf("printed %q: %v", out, err)
				}
			}
			entries, err := os.ReadDir(source)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				want, _ := os.ReadFile(filepath.Join(source, e.Name()))
				got, err := os.ReadFile(filepath.Join(again, e.Name()))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s differs: %v", e.Name(), err)
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	source := t.TempDir()
	cfg := shared()
	cfg.SharedKeyRotary = model.RotaryAfter
	if err := checkpoint.Write(source, cfg, fresh.New(cfg, 3), checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	separate := t.TempDir()
	cfg = shared()
	cfg.ValueOwner = make(model.OwnerMap, cfg.Layers) // layer 0 owns all values
	if err := checkpoint.Write(separate, cfg, fresh.New(cfg, 3), checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		o    Options
		code int
	}{
		{Options{Source: source}, ui.ExitUsage},
		{Options{Source: source, Output: out, Format: "gguf"}, ui.ExitUsage},
		{Options{Source: source, Output: out, DType: "int8"}, ui.ExitUsage},
		{Options{Source: source, Output: out, Format: checkpoint.Authors}, ui.ExitUsage},
		{Options{Source: separate, Output: out, Format: checkpoint.Authors}, ui.ExitUsage},
		{Options{Source: source, Output: source}, ui.ExitUsage},
		{Options{Source: filepath.Join(source, "none"), Output: out}, ui.ExitInput},
	} {
		if _, err := run(t, c.o); ui.ExitCode(err) != c.code {
			t.Errorf("%+v: exit code %d, expected %d: %v", c.o, ui.ExitCode(err), c.code, err)
		}
		if _, err := os.Stat(out); !os.IsNotExist(err) {
			t.Errorf("%+v: %s is there: %v", c.o, out, err)
		}
	}
}

// TestCancelled leaves nothing behind.
func TestCancelled(t *testing.T) {
	source, parent := t.TempDir(), t.TempDir()
	if err := checkpoint.Write(source, shared(), fresh.New(shared(), 3), checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := Run(ctx, Options{Source: source, Output: filepath.Join(parent, "out")}, ui.Streams{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}})
	if err == nil {
		t.Error("no error")
	}
	if entries, _ := os.ReadDir(parent); len(entries) > 0 {
		t.Errorf("%v is left", entries)
	}
}
