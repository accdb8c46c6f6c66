package measure

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// format marks the file of results and its version.
const format = "mlkv measurements 1"

// Results are what a measurement found. Memory is in bytes.
type Results struct {
	Format     string             `json:"format"`
	Device     Device             `json:"device"`
	Models     []ModelResult      `json:"models"`
	Provenance *provenance.Record `json:"provenance"`
}

// Device is what the models ran on.
type Device struct {
	Device  string `json:"device"`
	Name    string `json:"name"`
	Backend string `json:"backend"`
	Memory  int64  `json:"memory"`
	Limit   int64  `json:"limit,omitempty"` // that was set for a model and its cache
}

// ModelResult is one model with its points.
type ModelResult struct {
	Name     string `json:"name"`
	Path     string `json:"path,omitempty"`     // empty: random weights
	Checksum string `json:"checksum,omitempty"` // of the checkpoint
	Layers   int    `json:"layers"`
	KVLayers int    `json:"kv_layers"`
	KVHeads  int    `json:"kv_heads"`
	LayerMap string `json:"layer_map"`
	// ValueKVLayers and ValueLayerMap are those of values where these have
	// owners of their own; KVLayers and LayerMap are those of keys then.
	ValueKVLayers int    `json:"value_kv_layers,omitempty"`
	ValueLayerMap string `json:"value_layer_map,omitempty"`
	Parameters    int    `json:"parameters"`
	CacheBits     int    `json:"cache_bits"`
	// KVBytes is what the cache holds for a token, KVBytesRead what the
	// layers of a step read of it, both by formula.
	KVBytes     int `json:"kv_bytes_per_token"`
	KVBytesRead int `json:"kv_bytes_read_per_token"`
	// Background is the memory in use before the model was loaded, Memory what
	// loading it took, Weights what of this are parameters.
	Background int64   `json:"background_memory"`
	Memory     int64   `json:"model_memory"`
	Weights    int64   `json:"weights"`
	Points     []Point `json:"points"`
}

func newModelResult(m Model, bits int) ModelResult {
	c := m.Config
	return ModelResult{
		Name: m.Name, Path: m.Path, Layers: c.Layers, KVLayers: c.Owner.Owners(), KVHeads: c.KVHeads, LayerMap: c.Owner.String(),
		ValueKVLayers: c.ValueOwner.Owners(), ValueLayerMap: c.ValueOwner.String(),
		Parameters: c.Parameters(), CacheBits: bits,
		KVBytes: c.KVElements() * bits / 8, KVBytesRead: 2 * c.Layers * c.KVSize() * bits / 8,
	}
}

// Kind says how a point's batch and length came about.
type Kind string

const (
	KindBatch   Kind = "batch"           // both were given
	KindLargest Kind = "largest batch"   // the batch was searched
	KindContext Kind = "longest context" // the length was searched
)

// Point is one measurement.
type Point struct {
	Kind        Kind `json:"kind"`
	Batch       int  `json:"batch_size"`
	Length      int  `json:"length"`       // capacity of the cache in tokens
	CacheLength int  `json:"cache_length"` // tokens in it before the steps
	Steps       int  `json:"steps"`
	OutOfMemory bool `json:"is_oom"`
	// Memory is all that is in use on the device; Beyond the share of it that
	// is neither weights nor KVFormula.
	Memory      int64   `json:"memory"`
	KVFormula   int64   `json:"kv_formula"`
	KVAllocated int64   `json:"kv_allocated"`
	Activations int64   `json:"activations"`
	Workspace   int64   `json:"workspace"`
	Beyond      float64 `json:"beyond"`

	Seconds         float64 `json:"seconds"` // of all steps
	TokensPerSecond float64 `json:"tokens_per_second"`
	BytesPerStep    int64   `json:"bytes_per_step"` // that a step must read at least
	BytesPerSecond  float64 `json:"bytes_per_second"`
}

func (p Point) String() string {
	text := fmt.Sprintf("batch %s at %s tokens: ", ui.FormatInt(int64(p.Batch)), ui.FormatInt(int64(p.Length)))
	if p.OutOfMemory {
		return text + "out of memory"
	}
	return text + fmt.Sprintf("%s, %s tokens/s", ui.FormatBytes(p.Memory), ui.FormatRate(p.TokensPerSecond))
}

func (r *Results) json() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	return append(text, '\n'), nil
}

// csvColumns are those of the MLKV authors' measure_memory.py with its units,
// MiB and seconds, and further ones behind them. There sequence_length counts
// the tokens that are decoded, the first included; memory_usage is what decoding
// takes beyond background and model.
var csvColumns = []string{
	"model_name", "batch_size", "sequence_length", "background_memory_usage", "model_memory_usage", "memory_usage",
	"kv_cache_mem", "inference_time", "inference_speed", "is_oom",
	"cache_length", "kind", "cache_bits", "kv_cache_formula",
}

func (r *Results) csv(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(csvColumns); err != nil {
		return err
	}
	for _, m := range r.Models {
		for _, p := range m.Points {
			if err := out.Write(m.csvRow(p)); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}

func (m ModelResult) csvRow(p Point) []string {
	number := func(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }
	mib := func(n int64) string { return number(float64(n) / (1 << 20)) }
	memory, seconds := mib(p.Memory-m.Background-m.Memory), number(p.Seconds)
	oom := "False" // as Python writes it
	if p.OutOfMemory {
		oom, memory, seconds = "True", "inf", "inf"
	}
	return []string{
		m.Name, strconv.Itoa(p.Batch), strconv.Itoa(p.Length - p.CacheLength), mib(m.Background), mib(m.Memory), memory,
		mib(p.KVAllocated), seconds, number(p.TokensPerSecond), oom,
		strconv.Itoa(p.CacheLength), string(p.Kind), strconv.Itoa(m.CacheBits), mib(p.KVFormula),
	}
}
