package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/data"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/ui"
)

func onCPU() (engine.Engine, error) { return cpu.Open(0), nil }

// shard writes packed rows of a tokenizer with the given checksum.
func shard(t *testing.T, tokenizer string, rows ...[]uint16) string {
	t.Helper()
	return wideShard(t, tokenizer, 8, rows...)
}

// wideShard is shard for rows that predict length tokens.
func wideShard(t *testing.T, tokenizer string, length int, rows ...[]uint16) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x"+data.ShardSuffix)
	h := data.Header{RowLength: length, Packing: data.Stream, VocabSize: 1 << 16}
	if err := h.SetTokenizer(tokenizer); err != nil {
		t.Fatal(err)
	}
	w, err := data.NewWriter(path, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if err := w.WriteRow(r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	return path
}

// tokenized writes a model folder with a tokenizer.json, whose checksum it
// returns.
func tokenized(t *testing.T) (dir, tokenizer string) {
	dir = t.TempDir()
	cfg := small()
	if err := checkpoint.Write(dir, cfg, scaled{newNoise(cfg)}, checkpoint.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	text := []byte(`{"made": "up"}`)
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), text, 0o666); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	return dir, hex.EncodeToString(sum[:])
}

func TestCheck(t *testing.T) {
	dir, sum := tokenized(t)
	rows := [][]uint16{{1, 2, 3, 4, 5, 6, 7, 8, 9}, {9, 8, 7, 6}, {5}, {11, 12, 13}}
	o := Options{
		Source: dir, KVHeads: 1, KVLayers: 2, Grow: "none", Engine: onCPU,
		Check: []string{shard(t, sum, rows...)}, CheckRows: 3,
	}
	run := func(o Options) *Check {
		o.Output = filepath.Join(t.TempDir(), "out")
		s, stdout := streams()
		if err := Run(context.Background(), o, s); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(stdout.String(), "loss on 11 tokens") {
			t.Errorf("the table lacks the loss:\n%s", stdout)
		}
		r := readReport(t, o.Output)
		if r.Check == nil {
			t.Fatal("convert.json has no check")
		}
		return r.Check
	}
	c := run(o)
	if want := logLoss(t, dir, rows[:2]); c.Tokens != 11 || math.Abs(c.Before-want) > 1e-5 {
		t.Errorf("loss %g of %d tokens before, expected %g of 11", c.Before, c.Tokens, want)
	}
	if math.Abs(c.After-c.Before) < 1e-4 {
		t.Errorf("loss %g before and %g after: sharing changed nothing", c.Before, c.After)
	}
	o.KVHeads, o.KVLayers = 0, 0
	if c := run(o); c.After != c.Before {
		t.Errorf("loss %g before and %g after an identity", c.Before, c.After)
	}
}

// logLoss computes the mean loss of rows from logits.
func logLoss(t *testing.T, dir string, rows [][]uint16) float64 {
	c := open(t, dir)
	e := cpu.Open(0)
	defer e.Close()
	s, err := e.Scorer(c.Config(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sum, n := 0.0, 0
	v := c.Config().VocabSize
	for _, row := range rows {
		tokens := make([]int32, len(row))
		for i, id := range row {
			tokens[i] = int32(id)
		}
		logits, err := s.Logits(context.Background(), tokens)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(row); i++ {
			total := 0.0
			for _, x := range logits[(i-1)*v : i*v] {
				total += math.Exp(float64(x))
			}
			sum += math.Log(total) - float64(logits[(i-1)*v+int(row[i])])
			n++
		}
	}
	return sum / float64(n)
}

func TestCheckRefusals(t *testing.T) {
	dir, sum := tokenized(t)
	other := strings.Repeat("ab", 32)
	for _, c := range []struct {
		name  string
		shard string
		want  []string
	}{
		{"another tokenizer", shard(t, other, []uint16{1, 2}), []string{"tokenizer", sum, other}},
		{"id beyond the vocabulary", shard(t, sum, []uint16{1, 2, 40}), []string{"row 0", "id 40", "vocabulary of 40"}},
		{"nothing to score", shard(t, sum, []uint16{1}), []string{"at least 2 tokens"}},
		{"missing", filepath.Join(dir, "none.rows"), []string{"none.rows"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := t.TempDir()
			s, _ := streams()
			o := Options{Source: dir, Output: filepath.Join(parent, "out"), KVHeads: 1, Check: []string{c.shard}, Engine: onCPU}
			err := Run(context.Background(), o, s)
			if ui.ExitCode(err) != ui.ExitInput {
				t.Errorf("exit code %d, expected %d: %v", ui.ExitCode(err), ui.ExitInput, err)
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
}
