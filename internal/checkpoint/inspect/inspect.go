// Package inspect says what a model folder holds: the architecture, which layer
// owns the keys and values of which, parameters by part, and the size of the
// key/value cache beside that of unshared models of the same shape.
package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"mlkv/internal/checkpoint"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// Options say what is inspected.
type Options struct {
	Dir   string
	Batch []int // batch sizes of the cache table; none stands for 1, 8, 64, 256
	// Length is the sequence length of the cache table; 0 stands for 2048.
	Length int
	JSON   bool
}

// elementSize is the size of a cached element in bytes: 16 bits, as in the
// paper.
const elementSize = 2

// Report is what is printed as JSON.
type Report struct {
	Dir              string         `json:"dir"`
	DType            string         `json:"dtype"`
	FileBytes        int64          `json:"file_bytes"`
	Layers           int            `json:"layers"`
	HiddenSize       int            `json:"hidden_size"`
	Heads            int            `json:"heads"`
	HeadSize         int            `json:"head_size"`
	IntermediateSize int            `json:"intermediate_size"`
	VocabSize        int            `json:"vocab_size"`
	MaxPositions     int            `json:"max_positions"`
	RotaryDims       int            `json:"rotary_dims"`
	ParallelResidual bool           `json:"parallel_residual"`
	TiedEmbeddings   bool           `json:"tied_embeddings"`
	KVLayers         int            `json:"kv_layers"`                 // that own keys, and values too unless these are apart
	ValueKVLayers    int            `json:"value_kv_layers,omitempty"` // that own values, where these are apart
	KVHeads          int            `json:"kv_heads"`
	LayerMap         string         `json:"layer_map"`
	ValueLayerMap    string         `json:"value_layer_map,omitempty"` // where values are apart from keys
	SharedKeyRotary  string         `json:"shared_key_rotary"`
	KVIntermediate   int            `json:"kv_intermediate_size,omitempty"`
	Parameters       int            `json:"parameters"`
	ByPart           map[string]int `json:"parameters_by_part"`
	Cache            []Cache        `json:"cache"`
	cfg              model.Config
}

// Cache is the key/value cache of one way of sharing, in bytes at 16 bits an
// element.
type Cache struct {
	Name          string      `json:"name"`
	KVLayers      int         `json:"kv_layers"`
	ValueKVLayers int         `json:"value_kv_layers,omitempty"`
	KVHeads       int         `json:"kv_heads"`
	BytesPerToken int         `json:"bytes_per_token"`
	Length        int         `json:"length"`
	Bytes         map[int]int `json:"bytes_by_batch"` // at Length tokens
}

// Run prints the report of a model folder. It reads no weights.
func Run(_ context.Context, o Options, s ui.Streams) error {
	if len(o.Batch) == 0 {
		o.Batch = []int{1, 8, 64, 256}
	}
	if o.Length == 0 {
		o.Length = 2048
	}
	if o.Length < 0 {
		return ui.Usagef("length: expected a positive number, found %d", o.Length)
	}
	for _, b := range o.Batch {
		if b <= 0 {
			return ui.Usagef("batch: expected positive numbers, found %d", b)
		}
	}
	c, err := checkpoint.Open(o.Dir)
	if err != nil {
		return err
	}
	defer c.Close()
	r := newReport(c, o)
	if o.JSON {
		enc := json.NewEncoder(s.Out)
		enc.SetIndent("", " ")
		return enc.Encode(r)
	}
	return r.print(s.Out, o)
}

func newReport(c *checkpoint.Checkpoint, o Options) *Report {
	cfg := c.Config()
	r := &Report{
		Dir: o.Dir, DType: c.DType().TorchName(), FileBytes: c.Bytes(),
		Layers: cfg.Layers, HiddenSize: cfg.HiddenSize, Heads: cfg.Heads, HeadSize: cfg.HeadSize(),
		IntermediateSize: cfg.IntermediateSize, VocabSize: cfg.VocabSize, MaxPositions: cfg.MaxPositions,
		RotaryDims: cfg.RotaryDims(), ParallelResidual: cfg.ParallelResidual, TiedEmbeddings: cfg.TiedEmbeddings,
		KVLayers: cfg.Owner.Owners(), ValueKVLayers: cfg.ValueOwner.Owners(), KVHeads: cfg.KVHeads,
		LayerMap: cfg.Owner.String(), ValueLayerMap: cfg.ValueOwner.String(),
		SharedKeyRotary: string(cfg.SharedKeyRotary), KVIntermediate: cfg.KVIntermediateSize,
		Parameters: cfg.Parameters(), ByPart: map[string]int{}, cfg: cfg,
	}
	for part, n := range cfg.ParametersByPart() {
		r.ByPart[string(part)] = n
	}
	r.Cache = caches(cfg, o)
	return r
}

// caches sets the model beside multi-head, grouped-query and multi-query
// attention in every layer.
func caches(cfg model.Config, o Options) []Cache {
	var out []Cache
	add := func(name string, c model.Config) {
		e := Cache{
			Name: name, KVLayers: c.Owner.Owners(), ValueKVLayers: c.ValueOwner.Owners(), KVHeads: c.KVHeads,
			BytesPerToken: c.KVBytes(1, 1, elementSize), Length: o.Length, Bytes: map[int]int{},
		}
		for _, b := range o.Batch {
			e.Bytes[b] = c.KVBytes(b, o.Length, elementSize)
		}
		out = append(out, e)
	}
	add("this model", cfg)
	all, _ := model.ContiguousOwners(cfg.Layers, cfg.Layers)
	unshared := cfg.WithOwners(all, nil)
	unshared.KVHeads = cfg.Heads
	add("MHA", unshared)
	if g := groupedHeads(cfg.Heads); g > 0 {
		unshared.KVHeads = g
		add("GQA", unshared)
	}
	unshared.KVHeads = 1
	add("MQA", unshared)
	return out
}

// groupedHeads is the number of key/value heads to show for grouped-query
// attention: the divisor nearest to a third of the heads, as in the paper's
// GQA-48, or 0 where there is none between 1 and all.
func groupedHeads(heads int) int {
	best := 0
	for _, d := range model.Divisors(heads) {
		if d == 1 || d == heads {
			continue
		}
		if best == 0 || abs(3*d-heads) <= abs(3*best-heads) {
			best = d
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

func (r *Report) print(w io.Writer, o Options) error {
	head := ui.NewTable("model", r.Dir)
	residual := "parallel"
	if !r.ParallelResidual {
		residual = "sequential"
	}
	head.Row("architecture", fmt.Sprintf("GPT-NeoX, %s residual, rotary on %d of %d channels", residual, r.RotaryDims, r.HeadSize))
	head.Row("weights", fmt.Sprintf("%s, %s in files", r.DType, ui.FormatBytes(r.FileBytes)))
	head.Row("layers x heads x channels", fmt.Sprintf("%d x %d x %d = hidden %d", r.Layers, r.Heads, r.HeadSize, r.HiddenSize))
	head.Row("MLP size", fmt.Sprint(r.IntermediateSize))
	head.Row("vocabulary", fmt.Sprint(r.VocabSize))
	head.Row("positions", fmt.Sprint(r.MaxPositions))
	head.Row("key/value sharing", r.sharing())
	if r.KVIntermediate > 0 {
		head.Row("key/value MLP size", fmt.Sprint(r.KVIntermediate))
	}
	if err := head.Text(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if r.cfg.ValueOwner == nil {
		drawOwners(w, r.cfg.Owner, "keys and values")
	} else {
		drawOwners(w, r.cfg.Owner, "keys")
		drawOwners(w, r.cfg.ValueOwner, "values")
	}

	parts := ui.NewTable("parameters", "count", "share %")
	for _, p := range []model.Part{model.PartEmbedding, model.PartQuery, model.PartKeyValue, model.PartOutput, model.PartMLP, model.PartNorm} {
		n := r.ByPart[string(p)]
		parts.Row(string(p), ui.Integer(n), ui.Fixed(100*float64(n)/float64(r.Parameters), 1))
	}
	parts.Row("all", ui.Integer(r.Parameters), ui.Fixed(100, 1))
	if err := parts.Text(w); err != nil {
		return err
	}
	fmt.Fprintln(w)

	columns := []string{"KV cache at 16 bits", "layers", "heads", "bytes a token"}
	for _, b := range o.Batch {
		columns = append(columns, fmt.Sprintf("%d x %d", o.Length, b))
	}
	cache := ui.NewTable(columns...)
	for _, c := range r.Cache {
		row := []any{c.Name, ui.Cell{Value: c.KVLayers, Text: model.FormatOwners(c.KVLayers, c.ValueKVLayers)}, c.KVHeads, ui.Integer(c.BytesPerToken)}
		for _, b := range o.Batch {
			row = append(row, ui.FormatBytes(int64(c.Bytes[b])))
		}
		cache.Row(row...)
	}
	return cache.Text(w)
}

// sharing says in words what is shared, and how.
func (r *Report) sharing() string {
	switch {
	case !r.cfg.Shared():
		return "none"
	case r.cfg.ValueOwner == nil:
		return fmt.Sprintf("%d of %d layers own %d of %d heads; keys shared %s rotary",
			r.KVLayers, r.Layers, r.KVHeads, r.Heads, r.SharedKeyRotary)
	}
	return fmt.Sprintf("%d of %d layers own keys, %d values, of %d of %d heads; keys shared %s rotary",
		r.KVLayers, r.Layers, r.ValueKVLayers, r.KVHeads, r.Heads, r.SharedKeyRotary)
}

// drawOwners draws an owner map: a line for each layer, a column for each
// owner; a full dot where a layer owns what is named, a ring where it attends
// to that of the owner above.
func drawOwners(w io.Writer, m model.OwnerMap, named string) {
	owners := m.List()
	width := len(fmt.Sprint(len(m) - 1))
	fmt.Fprintf(w, "owner map (● owns %s, ○ attends to them)\n", named)
	for l, owner := range m {
		fmt.Fprintf(w, "  layer %*d %s", width, l, strings.Repeat("  ", slices.Index(owners, owner)))
		if m.Owns(l) {
			fmt.Fprintln(w, "●")
		} else {
			fmt.Fprintf(w, "○ %d\n", owner)
		}
	}
	fmt.Fprintln(w)
}
