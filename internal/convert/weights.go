package convert

import (
	"context"
	"fmt"
	"strings"

	"mlkv/internal/checkpoint"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// weights are the target's parameters, made from the source when they are asked
// for.
type weights struct {
	ctx      context.Context
	src      *checkpoint.Checkpoint
	plan     *plan
	params   map[string]model.Param
	progress *ui.Progress
}

func newWeights(ctx context.Context, src *checkpoint.Checkpoint, p *plan) *weights {
	w := &weights{ctx: ctx, src: src, plan: p, params: map[string]model.Param{}}
	for _, param := range p.dst.Params() {
		w.params[param.Name] = param
	}
	return w
}

// Raw returns a parameter that the conversion does not touch as it is stored.
func (w *weights) Raw(name string) (checkpoint.Tensor, bool) {
	param, ok := w.params[name]
	if !ok || w.ctx.Err() != nil || w.plan.recipe(param).kind != kept {
		return checkpoint.Tensor{}, false
	}
	t, ok := w.src.Raw(name)
	if ok {
		w.progress.Add(int64(param.Size()))
	}
	return t, ok
}

// Float32 makes a parameter.
func (w *weights) Float32(name string) ([]float32, error) {
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	param, ok := w.params[name]
	if !ok {
		return nil, fmt.Errorf("the model has no parameter %s", name)
	}
	x, err := w.make(param)
	if err != nil {
		return nil, err
	}
	w.progress.Add(int64(param.Size()))
	return x, nil
}

func (w *weights) make(param model.Param) ([]float32, error) {
	p := w.plan
	r := p.recipe(param)
	switch r.kind {
	case kept:
		return w.src.Float32(param.Name)
	case fittedHead, folded:
		return p.absorbed.Make(w.src, param)
	case pooled:
		return w.pool(param.Layer, r.source, param.Size())
	case random:
		if r.source == "" {
			return p.kvMLP(param, nil), nil
		}
		x, err := w.pool(param.Layer, r.source, p.dst.KVSize()*param.Size()/param.Shape[0])
		if err != nil {
			return nil, err
		}
		return p.kvMLP(param, x), nil
	}
	x, err := w.src.Float32(param.Name)
	if err != nil {
		return nil, err
	}
	if r.kind == grownRows {
		return growRows(x, p.src.IntermediateSize, p.dst.IntermediateSize), nil
	}
	return growColumns(x, p.src.IntermediateSize, p.dst.IntermediateSize, p.grow), nil
}

// pool makes the key or value projection of an owner; source is the name of its
// weight or bias in a layer of the source, without the layer.
func (w *weights) pool(owner int, source string, size int) ([]float32, error) {
	p := w.plan
	held := map[int][]float32{} // the source's projections
	from := func(layer int) ([]float32, checkpoint.DType, error) {
		name := model.LayerName(layer, source)
		_, _, dtype := w.src.Stored(name)
		if x, ok := held[layer]; ok {
			return x, dtype, nil
		}
		x, err := w.src.Float32(name)
		held[layer] = x
		return x, dtype, err
	}
	out := make([]float32, size)
	head := size / p.dst.KVHeads
	for h := range p.dst.KVHeads {
		g := p.group(source, owner, h)
		dst := out[h*head : (h+1)*head]
		if err := p.pool.pool(dst, g, from); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// kind is how a parameter of the target comes about.
type kind string

const (
	kept         kind = "kept"
	pooled       kind = "pooled"
	grownRows    kind = "grown rows"
	grownColumns kind = "grown columns"
	random       kind = "random"
	fittedHead   kind = "fitted" // by absorption
	folded       kind = "folded" // with the maps of absorption
)

// recipe is how a parameter is made. source is the name, without the layer, of
// the projection that is pooled.
type recipe struct {
	kind   kind
	source string
}

// recipe looks a parameter of the target up.
func (p *plan) recipe(param model.Param) recipe {
	if param.Layer < 0 {
		return recipe{kind: kept}
	}
	module := strings.TrimPrefix(param.Name, model.LayerName(param.Layer, ""))
	dot := strings.LastIndexByte(module, '.')
	module, suffix := module[:dot], module[dot:]
	if p.absorbed != nil && p.absorbed.Changes(param) {
		if module == model.Key || module == model.Value {
			return recipe{fittedHead, module + suffix}
		}
		return recipe{kind: folded}
	}
	switch module {
	case model.Key, model.Value:
		if p.unpooled(module, param.Layer) {
			return recipe{kind: kept}
		}
		return recipe{pooled, module + suffix}
	case model.KeyIn:
		return recipe{random, model.Key + suffix}
	case model.ValueIn:
		return recipe{random, model.Value + suffix}
	case model.KeyOut, model.ValueOut:
		return recipe{kind: random}
	case model.MLPIn:
		if p.add > 0 {
			return recipe{kind: grownRows}
		}
	case model.MLPOut:
		if p.add > 0 && suffix == ".weight" {
			return recipe{kind: grownColumns}
		}
	}
	return recipe{kind: kept}
}

// unpooled reports whether the heads of an owner stay as they are. source is the
// name of their projection in a layer.
func (p *plan) unpooled(source string, owner int) bool { return p.group(source, owner, 0).single() }
