package report

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v3"

	"mlkv/internal/checkpoint"
	"mlkv/internal/ui"
)

// Files that tell what a folder is.
const (
	metricsFile = "metrics.jsonl" // a run of uptrain
	convertFile = "convert.json"  // what convert wrote
	configFile  = "config.yaml"   // a run's resolved configuration
	modelConfig = "config.json"   // a checkpoint's architecture
)

// readRun reads a run folder of uptrain, finished or not.
func readRun(dir string) (*Row, error) {
	name, err := runName(dir)
	if err != nil {
		return nil, err
	}
	r := newRow(name)
	if r.Shape, err = readShape(filepath.Join(dir, "model")); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, metricsFile)
	f, err := os.Open(path)
	if err != nil {
		return nil, ui.Inputf("metrics: %w", err)
	}
	defer f.Close()
	if err := r.readMetrics(path, f); err != nil {
		return nil, err
	}
	return r, nil
}

// readMetrics takes over the curve, and the held-out losses before the first
// step and after the last. A last line that a running process left incomplete
// is ignored.
func (r *Row) readMetrics(path string, f io.Reader) error {
	in := bufio.NewReader(f)
	for line := 1; ; line++ {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return ui.Inputf("%s: %w", path, err)
		}
		m := struct {
			Step          int      `json:"step"`
			Loss          *float64 `json:"loss"`
			CrossEntropy  *float64 `json:"ce"` // where the loss is another objective
			Heldout       *float64 `json:"heldout_loss"`
			HeldoutTokens int      `json:"heldout_tokens"`
		}{}
		if err := json.Unmarshal(text, &m); err != nil {
			return ui.Inputf("%s:%d: expected an object of metrics, found %.60q: %w", path, line, bytes.TrimSpace(text), err)
		}
		p := Point{m.Step, orNaN(cmp.Or(m.CrossEntropy, m.Loss)), orNaN(m.Heldout)}
		r.Curve = append(r.Curve, p)
		if m.Heldout == nil {
			continue
		}
		if m.Step == 0 {
			r.Converted, r.ConvertedTokens = Estimate{p.Heldout, math.NaN()}, m.HeldoutTokens
			continue
		}
		r.Heldout, r.HeldoutTokens = Estimate{p.Heldout, math.NaN()}, m.HeldoutTokens
	}
}

func orNaN(x *float64) float64 {
	if x == nil {
		return math.NaN()
	}
	return *x
}

// runName is the name in the run's configuration, or else that of its work
// folder.
func runName(dir string) (string, error) {
	path := filepath.Join(dir, configFile)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", ui.Inputf("run folder: %w", err)
	}
	var c struct {
		Name string `yaml:"name"`
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		return "", ui.Inputf("%s: %w", path, err)
	}
	if c.Name != "" {
		return c.Name, nil
	}
	return folderName(dir), nil
}

// ModelName is what a row calls the model in a checkpoint folder: the name in
// its run's configuration, or else that of its work folder.
func ModelName(dir string) (string, error) {
	run := filepath.Clean(dir)
	if filepath.Base(run) == "model" {
		run = filepath.Dir(run)
	}
	return runName(run)
}

// folderName names a row that nothing else names after its work folder.
func folderName(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return filepath.Base(workFolder(dir))
}

// readShape reads the architecture of a checkpoint folder; nil where there is
// none, as in a run that is not finished.
func readShape(dir string) (*Shape, error) {
	path := filepath.Join(dir, modelConfig)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ui.Inputf("checkpoint: %w", err)
	}
	c, err := checkpoint.ParseConfig(data)
	if err != nil {
		return nil, ui.Inputf("%s: %w", path, err)
	}
	return shapeOf(c), nil
}
