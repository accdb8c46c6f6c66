package report

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"mlkv/internal/ui"
)

// resultFile is what is used of a result file: that of lm-evaluation-harness
// 0.3 or 0.4, or ours with its section "mlkv".
type resultFile struct {
	Results map[string]map[string]any `json:"results"`
	Config  struct {
		ModelArgs any `json:"model_args"` // text, or an object in later harnesses
	} `json:"config"`
	Date float64      `json:"date"` // seconds since 1970
	MLKV *mlkvSection `json:"mlkv"`
}

// mlkvSection describes the model in our result files.
type mlkvSection struct {
	Name  string `json:"name"`
	Model struct {
		Owners      int `json:"kv_layers"`
		ValueOwners int `json:"value_kv_layers"`
		KVHeads     int `json:"kv_heads"`
		Parameters  int `json:"parameters"`
		KVBytes     int `json:"kv_bytes_per_token"`
	} `json:"model"`
	Heldout *struct {
		Tokens int `json:"tokens"`
	} `json:"heldout"`
}

// evaluation is a result file as a source of a row.
type evaluation struct {
	file  string
	model string // folder or name of the model that was evaluated
	date  float64
	row   *Row
}

// parseResult reads a result file. It returns nil, without an error, where the
// file is JSON of another kind.
func parseResult(path string, data []byte) (*evaluation, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, ui.Inputf("%s: expected a result file of lm-evaluation-harness (a JSON object): %w", path, err)
	}
	if top["results"] == nil {
		return nil, nil
	}
	var f resultFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, ui.Inputf("%s: expected a result file of lm-evaluation-harness: %w", path, err)
	}
	e := &evaluation{file: path, model: f.model(), date: f.Date}
	e.row = newRow(f.name(path, e.model))
	e.row.Shape = f.shape(e.model)
	for task, figures := range f.Results {
		if acc := metric(figures, "acc"); acc.Known() {
			e.row.Accuracy[task] = acc
		}
	}
	if held := f.Results["heldout"]; held != nil {
		e.row.Heldout = metric(held, "loss")
		e.row.BitsPerByte = metric(held, "bits_per_byte")
	}
	if f.MLKV != nil && f.MLKV.Heldout != nil {
		e.row.HeldoutTokens = f.MLKV.Heldout.Tokens
	}
	if len(e.row.Accuracy) == 0 && !e.row.Heldout.Known() {
		return nil, ui.Inputf(`%s: field "results": expected the accuracy ("acc,none") or held-out loss of at least one task, found none`, path)
	}
	return e, nil
}

// metric finds a figure under the keys of harness 0.4 ("acc,none") or 0.3
// ("acc").
func metric(figures map[string]any, name string) Estimate {
	for _, filter := range []string{",none", ""} {
		v, ok := figures[name+filter].(float64)
		if !ok {
			continue
		}
		se, ok := figures[name+"_stderr"+filter].(float64)
		if !ok {
			se = math.NaN()
		}
		return Estimate{v, se}
	}
	return unknown
}

// model is the value of "pretrained" in model_args.
func (f resultFile) model() string {
	switch args := f.Config.ModelArgs.(type) {
	case string:
		for part := range strings.SplitSeq(args, ",") {
			if v, ok := strings.CutPrefix(strings.TrimSpace(part), "pretrained="); ok {
				return v
			}
		}
	case map[string]any:
		return fmt.Sprint(args["pretrained"])
	}
	return ""
}

func (f resultFile) name(path, model string) string {
	switch {
	case f.MLKV != nil && f.MLKV.Name != "":
		return f.MLKV.Name
	case publishedName(model) != "":
		return publishedName(model)
	case model != "":
		return folderName(model)
	}
	name := strings.TrimSuffix(filepath.Base(path), ".json")
	return strings.TrimSuffix(name, "_results")
}

func (f resultFile) shape(model string) *Shape {
	if f.MLKV == nil {
		return publishedShape(model)
	}
	if m := f.MLKV.Model; m.KVBytes > 0 {
		return &Shape{m.Owners, m.ValueOwners, m.KVHeads, m.Parameters, m.KVBytes}
	}
	return nil
}
