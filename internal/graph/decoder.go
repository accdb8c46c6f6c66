package graph

import (
	"gorgonia.org/gorgonia"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// shared are the keys and values that an owner layer offers to the layers that
// borrow from it.
type shared struct {
	own, borrowed *gorgonia.Node // keys as the owner and as borrowers see them
	value         *gorgonia.Node
}

// decoder is the model up to its final layer norm, [N, H].
func (g *Graph) decoder() *gorgonia.Node {
	x := op.Apply(op.Embed{}, g.Tokens, g.Params[model.EmbedIn])
	owners := map[int]shared{}
	for l := range g.Config.Layers {
		x = g.layer(l, x, owners)
	}
	return g.norm(model.FinalNormName, x)
}

// layer is one decoder layer, with the residual as transformers' GPT-NeoX
// computes it: parallel, x + attention(norm1 x) + mlp(norm2 x), or sequential.
func (g *Graph) layer(l int, x *gorgonia.Node, owners map[int]shared) *gorgonia.Node {
	attended := g.attention(l, g.norm(model.LayerName(l, model.InputNorm), x), owners)
	if g.Config.ParallelResidual {
		return op.Apply(op.Sum{}, x, attended, g.mlp(l, g.norm(model.LayerName(l, model.PostNorm), x)))
	}
	x = op.Apply(op.Sum{}, x, attended)
	return op.Apply(op.Sum{}, x, g.mlp(l, g.norm(model.LayerName(l, model.PostNorm), x)))
}

// attention reads the keys and values of layer l's owner, which is l itself or
// an earlier layer.
func (g *Graph) attention(l int, x *gorgonia.Node, owners map[int]shared) *gorgonia.Node {
	c := g.Config
	owner := c.Owner[l]
	layer := Layer{Input: x, Query: g.linear(model.LayerName(l, model.Query), x)}
	if owner == l {
		layer.Key, layer.Value = g.keysValues(l, x)
		owners[l] = g.share(l, layer.Key, layer.Value)
	}
	kv := owners[owner]
	key := kv.borrowed
	if owner == l {
		key = kv.own
	}
	layer.Output = op.Attend(op.Attention{
		Length: g.Options.Length, Heads: c.Heads, KVHeads: c.KVHeads, HeadSize: c.HeadSize(), Owner: owner,
	}, g.rotate(layer.Query), key, kv.value)
	g.Layers = append(g.Layers, layer)
	return g.linear(model.LayerName(l, model.AttentionOut), layer.Output)
}

// keysValues projects the keys and values of an owner layer.
func (g *Graph) keysValues(l int, x *gorgonia.Node) (key, value *gorgonia.Node) {
	if g.Config.KVIntermediateSize > 0 {
		return g.twoLayers(l, model.KeyIn, model.KeyOut, x), g.twoLayers(l, model.ValueIn, model.ValueOut, x)
	}
	return g.linear(model.LayerName(l, model.Key), x), g.linear(model.LayerName(l, model.Value), x)
}

// share decides how an owner's keys are seen by itself and by its borrowers, and
// what the cache holds of them.
func (g *Graph) share(l int, key, value *gorgonia.Node) shared {
	rotated := g.rotate(key)
	s := shared{own: rotated, borrowed: rotated, value: value}
	cached := Cached{Owner: l, Key: rotated, Value: value}
	if g.Config.SharedKeyRotary == model.RotaryBefore && len(g.Config.Owner.Members(l)) > 1 {
		s.borrowed = key
		cached.Key, cached.Unrotated = key, rotated != key
	}
	g.Cache = append(g.Cache, cached)
	return s
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
