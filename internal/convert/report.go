package convert

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"mlkv/internal/absorb"
	"mlkv/internal/checkpoint"
	"mlkv/internal/model"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// cacheElement is the size of an element of the key/value cache in reports, in
// bytes: 16 bits, as in the paper.
const cacheElement = 2

// Size is what a conversion changes of a model. Where keys and values have owners
// of their own, KVLayers, KVHeadsTotal and LayerMap are of keys; the members of
// values are empty elsewhere.
type Size struct {
	KVLayers           int    `json:"kv_layers"`
	ValueKVLayers      int    `json:"value_kv_layers,omitempty"`
	KVHeads            int    `json:"kv_heads"`       // in each of them
	KVHeadsTotal       int    `json:"kv_heads_total"` // in all of them
	ValueHeadsTotal    int    `json:"value_heads_total,omitempty"`
	LayerMap           string `json:"layer_map"`
	ValueLayerMap      string `json:"value_layer_map,omitempty"`
	SharedKeyRotary    string `json:"shared_key_rotary"`
	IntermediateSize   int    `json:"intermediate_size"`
	KVIntermediateSize int    `json:"kv_intermediate_size,omitempty"`
	Parameters         int    `json:"parameters"`
	KVBytesPerToken    int    `json:"kv_bytes_per_token"` // at 16 bits an element
}

func sizeOf(c model.Config) Size {
	return Size{
		KVLayers: c.Owner.Owners(), ValueKVLayers: c.ValueOwner.Owners(), KVHeads: c.KVHeads,
		KVHeadsTotal: c.Owner.Owners() * c.KVHeads, ValueHeadsTotal: c.ValueOwner.Owners() * c.KVHeads,
		LayerMap: c.Owner.String(), ValueLayerMap: c.ValueOwner.String(), SharedKeyRotary: string(c.SharedKeyRotary),
		IntermediateSize: c.IntermediateSize, KVIntermediateSize: c.KVIntermediateSize,
		Parameters: c.Parameters(), KVBytesPerToken: c.KVBytes(1, 1, cacheElement),
	}
}

// ofValues counts the layers with values, and the heads of values in all of them.
func (s Size) ofValues() (layers, heads int) {
	if s.ValueLayerMap == "" {
		return s.KVLayers, s.KVHeadsTotal
	}
	return s.ValueKVLayers, s.ValueHeadsTotal
}

// Report is the content of convert.json.
type Report struct {
	Source       string             `json:"source"`
	Output       string             `json:"output"`
	Start        string             `json:"start"`
	Pooling      string             `json:"pooling,omitempty"` // where Start is pooling
	Grow         string             `json:"grow"`
	Format       checkpoint.Format  `json:"format"`
	AddedNeurons int                `json:"added_neurons"` // in each MLP
	Before       Size               `json:"before"`
	After        Size               `json:"after"`
	Absorbed     *Absorbed          `json:"absorbed,omitempty"`
	Check        *Check             `json:"check,omitempty"`
	Tensors      []TensorOrigin     `json:"tensors"`
	Provenance   *provenance.Record `json:"provenance"`
}

// TensorOrigin says what a tensor of the weight file was made from.
type TensorOrigin struct {
	Name  string `json:"name"`
	Shape []int  `json:"shape"`
	DType string `json:"dtype"`
	// How is kept, fused, pooled, fitted, folded, grown or random; see
	// docs/convert.md.
	How  string   `json:"how"`
	From []Origin `json:"from,omitempty"`
}

// Origin is a tensor of the source, or a part of it.
type Origin struct {
	Tensor string `json:"tensor"`
	// Part is query, key or value where Tensor is the fused projection.
	Part string `json:"part,omitempty"`
	// Heads lists for each head of the result the source's heads that it is
	// pooled from or fitted to.
	Heads [][]int `json:"heads,omitempty"`
	// Weight is how much Tensor counts in a pooled one.
	Weight float64 `json:"weight,omitempty"`
}

func newReport(src *checkpoint.Checkpoint, p *plan, o Options) *Report {
	r := &Report{
		Source: o.Source, Output: o.Output, Start: o.Start, Grow: o.Grow, Format: o.Format, AddedNeurons: p.add,
		Before: sizeOf(p.src), After: sizeOf(p.dst),
	}
	if o.Start == "pooling" {
		r.Pooling = o.Pooling
	}
	dtype := src.DType()
	if o.DType != "" {
		dtype, _ = checkpoint.ParseDType(o.DType) // checked when the weights were written
	}
	params := map[string]model.Param{}
	for _, param := range p.dst.Params() {
		params[param.Name] = param
	}
	for _, e := range checkpoint.Layout(p.dst, o.Format, nil, dtype) {
		t := TensorOrigin{Name: e.Name, Shape: e.Shape, DType: string(e.DType)}
		if param, ok := params[e.Name]; ok {
			t.How, t.From = p.origins(src, param)
		} else {
			t.How, t.From = fusedOrigins(src, e.Name)
		}
		r.Tensors = append(r.Tensors, t)
	}
	return r
}

// origins tells how a parameter came about and from what.
func (p *plan) origins(src *checkpoint.Checkpoint, param model.Param) (string, []Origin) {
	r := p.recipe(param)
	switch r.kind {
	case pooled:
		return "pooled", p.pooledOrigins(src, param.Layer, r.source)
	case random:
		if r.source == "" {
			return "random", nil
		}
		if p.unpooled(r.source, param.Layer) {
			return "random after the kept rows", []Origin{stored(src, model.LayerName(param.Layer, r.source))}
		}
		return "random after the pooled rows", p.pooledOrigins(src, param.Layer, r.source)
	case fittedHead:
		return "fitted", p.fittedOrigins(src, param.Layer, r.source)
	case folded:
		return "folded", []Origin{stored(src, param.Name)}
	case grownRows, grownColumns:
		return "grown", []Origin{stored(src, param.Name)}
	}
	return "kept", []Origin{stored(src, param.Name)}
}

// pooledOrigins lists the layers that an owner's projection is pooled from.
func (p *plan) pooledOrigins(src *checkpoint.Checkpoint, owner int, source string) []Origin {
	var out []Origin
	at := map[int]int{} // layer to its place in out
	for h := range p.dst.KVHeads {
		for _, s := range p.pool.shares(p.group(source, owner, h)) {
			i, ok := at[s.layer]
			if !ok {
				i = len(out)
				at[s.layer] = i
				o := stored(src, model.LayerName(s.layer, source))
				o.Weight = s.weight
				out = append(out, o)
			}
			out[i].Heads = append(out[i].Heads, s.heads)
		}
	}
	return out
}

// fittedOrigins lists the layers whose heads an owner's are fitted to.
func (p *plan) fittedOrigins(src *checkpoint.Checkpoint, owner int, source string) []Origin {
	var out []Origin
	for i, layer := range p.group(source, owner, 0).layers {
		out = append(out, stored(src, model.LayerName(layer, source)))
		for h := range p.dst.KVHeads {
			g := p.group(source, owner, h)
			out[i].Heads = append(out[i].Heads, span(g.head, g.count))
		}
	}
	return out
}

// stored is the origin of a parameter that lies in the source.
func stored(src *checkpoint.Checkpoint, name string) Origin {
	tensor, part, _ := src.Stored(name)
	return Origin{Tensor: tensor, Part: part}
}

// fusedOrigins is the origin of a fused projection, which only a model that
// keeps all its heads has.
func fusedOrigins(src *checkpoint.Checkpoint, name string) (string, []Origin) {
	var from []Origin
	for _, o := range checkpoint.FusedParts(name) {
		origin := stored(src, o)
		if origin.Tensor == name {
			return "kept", []Origin{{Tensor: name}}
		}
		from = append(from, origin)
	}
	return "fused", from
}

func (r *Report) writeFile(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return os.WriteFile(path, append(data, '\n'), 0o666)
}

// print shows the report, without its tensors, as a table or as JSON.
func (r *Report) print(s ui.Streams, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(s.Out)
		enc.SetIndent("", " ")
		return enc.Encode(r)
	}
	t := ui.NewTable("", "before", "after")
	b, a := r.Before, r.After
	printHeads(t, b, a)
	t.Row("MLP size", b.IntermediateSize, a.IntermediateSize)
	if a.KVIntermediateSize > 0 {
		t.Row("key/value MLP size", nil, a.KVIntermediateSize)
	}
	t.Row("parameters", ui.Integer(b.Parameters), ui.Integer(a.Parameters))
	t.Row("KV cache, bytes a token at 16 bits", ui.Integer(b.KVBytesPerToken), ui.Integer(a.KVBytesPerToken))
	if r.Absorbed != nil {
		if keys := r.Absorbed.least(func(h absorb.HeadReport) *float64 { return h.Key }); keys != nil {
			t.Row("variance of keys explained, least of all heads", nil, ui.Fixed(*keys, 4))
		}
		if values := r.Absorbed.least(func(h absorb.HeadReport) *float64 { return h.Value }); values != nil {
			t.Row("variance of values explained, least of all heads", nil, ui.Fixed(*values, 4))
		}
	}
	if r.Check != nil {
		t.Row(fmt.Sprintf("loss on %d tokens", r.Check.Tokens), ui.Fixed(r.Check.Before, 4), ui.Fixed(r.Check.After, 4))
	}
	return t.Text(s.Out)
}

// printHeads shows the owners and heads before and after, those of values apart
// where they have owners of their own.
func printHeads(t *ui.Table, b, a Size) {
	if b.ValueLayerMap == "" && a.ValueLayerMap == "" {
		t.Row("layers with keys and values", b.KVLayers, a.KVLayers)
		t.Row("key/value heads in each", b.KVHeads, a.KVHeads)
		t.Row("key/value heads", b.KVHeadsTotal, a.KVHeadsTotal)
		return
	}
	layersBefore, headsBefore := b.ofValues()
	layersAfter, headsAfter := a.ofValues()
	t.Row("layers with keys", b.KVLayers, a.KVLayers)
	t.Row("layers with values", layersBefore, layersAfter)
	t.Row("heads in each", b.KVHeads, a.KVHeads)
	t.Row("heads of keys", b.KVHeadsTotal, a.KVHeadsTotal)
	t.Row("heads of values", headsBefore, headsAfter)
}
