package train

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/ui"
)

func TestMetricsTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	log, err := openMetrics(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	var whole int64
	for step := 1; step <= 4; step++ {
		if err := log.add(Metric{Step: step, Loss: finite(float64(step)), Tokens: int64(step)}); err != nil {
			t.Fatal(err)
		}
		if step == 2 {
			whole = log.size
		}
	}
	if err := log.close(); err != nil {
		t.Fatal(err)
	}
	log, err = openMetrics(path, whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.add(Metric{Step: 3, HeldoutLoss: finite(7), HeldoutTokens: 5}); err != nil {
		t.Fatal(err)
	}
	log.close()
	got, err := ReadMetrics(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[1].Step != 2 || !got[2].Heldout() || *got[2].HeldoutLoss != 7 {
		t.Errorf("records %+v: expected steps 1, 2 and a held-out record", got)
	}
	if _, err := openMetrics(path, log.size+1); ui.ExitCode(err) != ui.ExitInput {
		t.Errorf("file shorter than the checkpoint counted: found %v, expected an input error", err)
	}
}

func TestMetricsNotFinite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	log, err := openMetrics(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	if err := log.add(Metric{Step: 1, Loss: finite(math.NaN()), GradNorm: finite(math.Inf(1)), Skipped: true}); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(path)
	if want := `{"step":1,"skipped":true,"tokens":0,"elapsed":0}` + "\n"; string(data) != want {
		t.Errorf("found %s expected %s", data, want)
	}
}

func FuzzReadMetrics(f *testing.F) {
	f.Add(`{"step":1,"loss":2.5,"lr":0.1,"grad_norm":1,"tokens":8,"elapsed":1}` + "\n")
	f.Add(`{"step":0,"heldout_loss":5,"heldout_tokens":9,"tokens":0,"elapsed":0}` + "\n" + `{"step":`)
	f.Add("null\n[]\n")
	f.Fuzz(func(t *testing.T, text string) {
		metrics, err := decodeMetrics(strings.NewReader(text))
		if err == nil && len(metrics) != strings.Count(text, "\n") {
			t.Errorf("%d records from %d lines", len(metrics), strings.Count(text, "\n"))
		}
	})
}

// quick is an engine on a device whose peak is known.
type quick struct {
	engine.Engine
	peak float64
}

func (q quick) Info() engine.Info {
	info := q.Engine.Info()
	info.Peak = q.peak
	return info
}

// TestMFU: the rate of every step and its share of the device's peak are in the
// metrics.
func TestMFU(t *testing.T) {
	o := testOptions(t)
	const peak = 1e12
	o.Device = func() (engine.Engine, error) { return quick{cpu.Open(1), peak}, nil }
	mustRun(t, o)
	base, err := checkpoint.Open(o.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	metrics, err := ReadMetrics(filepath.Join(o.Out, metricsFile))
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	for _, m := range metrics {
		if m.Heldout() {
			continue
		}
		steps++
		want := m.TokensPerSecond * base.Config().TrainingFLOPs(testLength) / peak
		if m.TokensPerSecond <= 0 || math.Abs(m.MFU/want-1) > 1e-9 {
			t.Errorf("step %d: %g tokens/s and MFU %g, want %g", m.Step, m.TokensPerSecond, m.MFU, want)
		}
	}
	if steps == 0 {
		t.Error("no step was recorded")
	}
}
