package train

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"mlkv/internal/ui"
)

// golden is a file of ten AdamW steps; see the README of the golden folder.
type golden struct {
	Betas       [2]float64 `json:"betas"`
	Eps         float64    `json:"eps"`
	WeightDecay float64    `json:"weight_decay"`
	Clip        float64    `json:"clip"`
	Steps       []struct {
		Step     int       `json:"step"`
		Rate     float64   `json:"lr"`
		Loss     float64   `json:"loss"`
		GradNorm float64   `json:"grad_norm"`
		InputIDs [][]int32 `json:"input_ids"`
	} `json:"steps"`
}

// goldenRuns lists the folders that hold a train.json.
func goldenRuns(t *testing.T) []string {
	t.Helper()
	root := os.Getenv("MLKV_GOLDEN")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "golden")
	}
	files, _ := filepath.Glob(filepath.Join(root, "*", "train.json"))
	if len(files) == 0 {
		t.Skipf("no */train.json below %s (shared golden results)", root)
	}
	dirs := make([]string, len(files))
	for i, f := range files {
		dirs[i] = filepath.Dir(f)
	}
	return dirs
}

func readGolden(t *testing.T, dir string) golden {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "train.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGoldenSchedule(t *testing.T) {
	for _, dir := range goldenRuns(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			g := readGolden(t, dir)
			peak := 0.0
			for _, s := range g.Steps {
				peak = max(peak, s.Rate)
			}
			s := Schedule{Shape: Cosine, Peak: peak, Warmup: 2, Total: len(g.Steps)}
			for _, want := range g.Steps {
				if got := s.Rate(want.Step); math.Abs(got-want.Rate) > 1e-15 {
					t.Errorf("step %d: rate %g, expected %g", want.Step, got, want.Rate)
				}
			}
		})
	}
}

func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		name string
		s    Schedule
		want map[int]float64
	}{
		{"cosine", Schedule{Cosine, 1, 0, 10, 110}, map[int]float64{0: 0, 5: 0.5, 10: 1, 60: 0.5, 110: 0, 500: 0}},
		{"cosine to final", Schedule{Cosine, 1, 0.2, 0, 100}, map[int]float64{0: 1, 50: 0.6, 100: 0.2}},
		{"linear", Schedule{Linear, 1, 0, 20, 100}, map[int]float64{0: 0, 10: 0.5, 20: 1, 60: 0.5, 100: 0, 200: 0}},
		{"linear to final", Schedule{Linear, 1, 0.5, 0, 10}, map[int]float64{0: 1, 5: 0.75, 10: 0.5}},
		{"constant", Schedule{Constant, 1, 0.5, 4, 10}, map[int]float64{0: 0, 2: 0.5, 4: 1, 9: 1}},
		{"warm-up only", Schedule{Cosine, 1, 0, 4, 4}, map[int]float64{0: 0, 3: 0.75, 4: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.s.Validate(); err != nil {
				t.Fatal(err)
			}
			for step, want := range c.want {
				if got := c.s.Rate(step); math.Abs(got-want) > 1e-12 {
					t.Errorf("step %d: rate %g, expected %g", step, got, want)
				}
			}
		})
	}
}

func TestScheduleValidate(t *testing.T) {
	err := Schedule{Shape: Cosine, Peak: 1, Warmup: 2, Total: 1}.Validate()
	if ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("warm-up beyond the run: found %v, expected a usage error", err)
	}
}

func TestWarmupSteps(t *testing.T) {
	for _, c := range []struct {
		ratio       float64
		total, want int
	}{{0.2, 102366, 20474}, {0, 10, 0}, {0.2, 10, 2}, {0.01, 10, 1}, {1, 7, 7}} {
		if got := WarmupSteps(c.ratio, c.total); got != c.want {
			t.Errorf("ratio %g of %d steps: %d, expected %d", c.ratio, c.total, got, c.want)
		}
	}
}
