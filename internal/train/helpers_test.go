package train

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/config"
	"mlkv/internal/data"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// The sizes of the tests' models and data.
const (
	testVocab  = 48
	testLength = 16
	testRows   = 41
)

// randomWeights draws a model's weights.
type randomWeights struct {
	cfg  model.Config
	seed uint64
}

func (w randomWeights) Float32(name string) ([]float32, error) {
	i := slices.IndexFunc(w.cfg.Params(), func(p model.Param) bool { return p.Name == name })
	p := w.cfg.Params()[i]
	rng := rand.New(rand.NewPCG(w.seed, uint64(i)))
	x := make([]float32, p.Size())
	for k := range x {
		x[k] = float32(rng.NormFloat64()) * 0.1
	}
	if p.Kind == model.Norm && strings.HasSuffix(name, ".weight") {
		for k := range x {
			x[k]++
		}
	}
	return x, nil
}

const testTokenizer = `{"model": {"type": "BPE"}}`

// writeBase makes a tiny checkpoint: four layers of which two own keys and
// values, or a plain one.
func writeBase(t *testing.T, shared bool) string {
	t.Helper()
	cfg := model.Plain(testVocab, 16, 4, 4)
	cfg.MaxPositions = 2 * testLength
	cfg.RotaryPct = 0.5
	if shared {
		cfg.KVHeads = 2
		cfg.Owner = model.OwnerMap{0, 0, 2, 0}
	}
	tokenizer := t.TempDir()
	write(t, filepath.Join(tokenizer, "tokenizer.json"), testTokenizer)
	dir := t.TempDir()
	err := checkpoint.Write(dir, cfg, randomWeights{cfg, 1}, checkpoint.WriteOptions{Tokenizer: tokenizer})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// writeShard makes a shard of rows of a simple grammar, some of them short.
func writeShard(t *testing.T, rows int, change func(h *data.Header, row []uint16)) string {
	t.Helper()
	h := data.Header{RowLength: testLength, Packing: data.Rows, VocabSize: testVocab, Tokenizer: sha256.Sum256([]byte(testTokenizer))}
	if change != nil {
		change(&h, nil)
	}
	path := filepath.Join(t.TempDir(), "tokens"+data.ShardSuffix)
	w, err := data.NewWriter(path, h)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, uint64(rows)))
	for range rows {
		row := make([]uint16, h.RowLength+1-rng.IntN(4))
		row[0] = uint16(rng.IntN(testVocab))
		for i := 1; i < len(row); i++ {
			row[i] = (row[i-1]*5 + uint16(rng.IntN(3))) % testVocab
		}
		if change != nil {
			change(&h, row)
		}
		if err := w.WriteRow(row); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	return path
}

// testOptions are a run of 12 steps on one thread.
func testOptions(t *testing.T) Options {
	t.Helper()
	c := config.Default()
	c.Data.Train = []string{writeShard(t, testRows, nil)}
	c.Data.Heldout = []string{writeShard(t, 7, nil)}
	u := &c.Uptrain
	u.Rows, u.MicroRows, u.Steps = 6, 3, 12
	u.LearningRate = 5e-3
	u.HeldoutEvery, u.HeldoutRows, u.CheckpointEvery = 5, 5, 4
	u.TensorBoard = false
	return Options{
		Config: c, Checkpoint: writeBase(t, true), Out: filepath.Join(t.TempDir(), "run"),
		Device: func() (engine.Engine, error) { return cpu.Open(1), nil },
	}
}

// output is what a run wrote to its streams.
type output struct{ out, err bytes.Buffer }

func (o *output) streams() ui.Streams {
	return ui.Streams{In: strings.NewReader(""), Out: &o.out, Err: &o.err, Width: 80}
}

func runTrain(t *testing.T, ctx context.Context, o Options) (*output, error) {
	t.Helper()
	var out output
	err := Run(ctx, o, out.streams())
	return &out, err
}

func mustRun(t *testing.T, o Options) *output {
	t.Helper()
	out, err := runTrain(t, t.Context(), o)
	if err != nil {
		t.Fatalf("run: %v\n%s", err, out.err.String())
	}
	return out
}

// content gives the files of a run that must not depend on interruptions: the
// model, the last checkpoint's tensors and the metrics without their times.
func content(t *testing.T, run string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range []string{modelDir, filepath.Join(checkpointsDir, "step-12")} {
		entries, err := os.ReadDir(filepath.Join(run, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if e.Name() == stateFile {
				continue // holds times
			}
			text, err := os.ReadFile(filepath.Join(run, name))
			if err != nil {
				t.Fatal(err)
			}
			out[name] = string(text)
		}
	}
	metrics, err := ReadMetrics(filepath.Join(run, metricsFile))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range metrics {
		m.TokensPerSecond, m.MFU, m.Elapsed = 0, 0, 0
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(text))
	}
	out[metricsFile] = strings.Join(lines, "\n")
	return out
}

// sameContent compares two runs byte for byte.
func sameContent(t *testing.T, got, want map[string]string) {
	t.Helper()
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		t.Errorf("files %v, expected %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	for name := range want {
		if got[name] == want[name] {
			continue
		}
		if name == metricsFile {
			t.Errorf("%s:\n%s\nexpected\n%s", name, got[name], want[name])
		} else {
			t.Errorf("%s: %d bytes differ from the expected %d", name, len(got[name]), len(want[name]))
		}
	}
}
