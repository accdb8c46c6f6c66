package graph

import (
	"gorgonia.org/gorgonia"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// shared are the keys and values that owner layers offer to the layers that borrow
// from them, by owner.
type shared struct {
	own, borrowed map[int]*gorgonia.Node // keys as the owner and as borrowers see them
	values        map[int]*gorgonia.Node
}

// decoder is the model up to its final layer norm, [N, H].
func (g *Graph) decoder() *gorgonia.Node {
	x := op.Apply(op.Embed{}, g.Tokens, g.Params[model.EmbedIn])
	kv := shared{map[int]*gorgonia.Node{}, map[int]*gorgonia.Node{}, map[int]*gorgonia.Node{}}
	for l := range g.Config.Layers {
		x = g.layer(l, x, kv)
	}
	return g.norm(model.FinalNormName, x)
}

// layer is one decoder layer, with the residual as transformers' GPT-NeoX
// computes it: parallel, x + attention(norm1 x) + mlp(norm2 x), or sequential.
func (g *Graph) layer(l int, x *gorgonia.Node, kv shared) *gorgonia.Node {
	attended := g.attention(l, g.norm(model.LayerName(l, model.InputNorm), x), kv)
	if g.Config.ParallelResidual {
		return op.Apply(op.Sum{}, x, attended, g.mlp(l, g.norm(model.LayerName(l, model.PostNorm), x)))
	}
	x = op.Apply(op.Sum{}, x, attended)
	return op.Apply(op.Sum{}, x, g.mlp(l, g.norm(model.LayerName(l, model.PostNorm), x)))
}

// attention reads the keys and the values of layer l's owners, which are l itself or
// earlier layers.
func (g *Graph) attention(l int, x *gorgonia.Node, kv shared) *gorgonia.Node {
	c := g.Config
	layer := Layer{Input: x, Query: g.linear(model.LayerName(l, model.Query), x)}
	key, value := c.Owner[l], c.ValueOwners()[l]
	if key == l {
		layer.Key = g.projection(l, model.Key, model.KeyIn, model.KeyOut, x)
	}
	if value == l {
		layer.Value = g.projection(l, model.Value, model.ValueIn, model.ValueOut, x)
	}
	g.share(l, layer.Key, layer.Value, kv)
	keys := kv.borrowed[key]
	if key == l {
		keys = kv.own[key]
	}
	layer.Output = op.Attend(op.Attention{
		Length: g.Options.Length, Heads: c.Heads, KVHeads: c.KVHeads, HeadSize: c.HeadSize(), KeyOwner: key, ValueOwner: value,
	}, g.rotate(layer.Query), keys, kv.values[value])
	g.Layers = append(g.Layers, layer)
	return g.linear(model.LayerName(l, model.AttentionOut), layer.Output)
}

// projection makes the keys or the values of an owner layer.
func (g *Graph) projection(l int, module, in, out string, x *gorgonia.Node) *gorgonia.Node {
	if g.Config.KVIntermediateSize > 0 {
		return g.twoLayers(l, in, out, x)
	}
	return g.linear(model.LayerName(l, module), x)
}

// share decides how an owner's keys are seen by itself and by its borrowers, and
// what the cache holds of them. Key or value is nil where the layer does not own any.
func (g *Graph) share(l int, key, value *gorgonia.Node, kv shared) {
	if key == nil && value == nil {
		return
	}
	cached := Cached{Owner: l, Value: value}
	if key != nil {
		rotated := g.rotate(key)
		kv.own[l], kv.borrowed[l], cached.Key = rotated, rotated, rotated
		if g.Config.SharedKeyRotary == model.RotaryBefore && len(g.Config.Owner.Members(l)) > 1 {
			kv.borrowed[l] = key
			cached.Key, cached.Unrotated = key, rotated != key
		}
	}
	kv.values[l] = value
	g.Cache = append(g.Cache, cached)
}

// Rotary is the rotary embedding of the model for sequences of the given
// length.
func Rotary(c model.Config, length int) op.Rotary {
	return op.Rotary{Length: length, HeadSize: c.HeadSize(), Dims: c.RotaryDims(), Base: c.RotaryBase}
}

func (g *Graph) rotate(x *gorgonia.Node) *gorgonia.Node {
	if g.Config.RotaryDims() == 0 {
		return x
	}
	return op.Apply(Rotary(g.Config, g.Options.Length), x)
}

func (g *Graph) mlp(l int, x *gorgonia.Node) *gorgonia.Node {
	return g.twoLayers(l, model.MLPIn, model.MLPOut, x)
}

// twoLayers is linear, exact GELU, linear.
func (g *Graph) twoLayers(l int, in, out string, x *gorgonia.Node) *gorgonia.Node {
	return g.linear(model.LayerName(l, out), op.Apply(op.Gelu{}, g.linear(model.LayerName(l, in), x)))
}

func (g *Graph) linear(name string, x *gorgonia.Node) *gorgonia.Node {
	return op.Apply(op.Linear{}, x, g.Params[name+".weight"], g.Params[name+".bias"])
}

func (g *Graph) norm(name string, x *gorgonia.Node) *gorgonia.Node {
	return op.Apply(op.LayerNorm{Eps: g.Config.LayerNormEps}, x, g.Params[name+".weight"], g.Params[name+".bias"])
}
