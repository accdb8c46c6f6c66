package cuda

import (
	"fmt"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// Decoding has a form of the weights of its own, with as few products a layer as
// there can be. Layer norms in layers only normalise: gain and bias go into the
// projections that read them. All projections of a layer's input are one matrix,
// whose rows are
//
//	keys | values | queries | mlp
//
// (keys and values of owners only; mlp with a parallel residual only), and attention
// output and MLP output are one matrix over queries | mlp. Channels that rotary
// pairs, i and i + dims/2 of a head, lie next to each other in keys and queries,
// which changes no score: both are counted in the same order.

// packed is a linear map [rows, cols] with its bias.
type packed struct {
	rows, cols   int
	weight, bias []float32
}

// packedLayer is one layer as the decoder computes it. Matrices that a layer does
// not have are nil.
type packedLayer struct {
	// split maps the normalised input to keys | values | queries | mlp, without
	// keys and values where these come from keyOut and valueOut; its bias has all.
	split *packed
	// kvIn maps it to the inner layers of key and value MLPs, one after another.
	kvIn             *packed
	keyOut, valueOut *packed
	// out maps queries | mlp to what is added to the residual.
	out *packed
	// mlpIn and mlpOut are those of an MLP that follows attention.
	mlpIn, mlpOut *packed
}

// decodeColumns are the widths of keys (and of values), queries and mlp in a layer's fused
// projection.
func decodeColumns(cfg model.Config, layer int) (kv, query, mlp int) {
	if cfg.Owner.Owns(layer) {
		kv = cfg.KVSize()
	}
	if cfg.ParallelResidual {
		mlp = cfg.IntermediateSize
	}
	return kv, cfg.HiddenSize, mlp
}

// packer reads a model's parameters, cfg, in the shapes of a padded one.
type packer struct {
	cfg, padded model.Config
	w           engine.Weights
	params      map[string]model.Param // of cfg
	wide        map[string]model.Param // of padded
}

func newPacker(cfg, padded model.Config, w engine.Weights) *packer {
	p := &packer{cfg, padded, w, map[string]model.Param{}, map[string]model.Param{}}
	for i, wide := range padded.Params() {
		p.params[wide.Name], p.wide[wide.Name] = cfg.Params()[i], wide
	}
	return p
}

// read is a parameter in its padded shape.
func (p *packer) read(name string) ([]float32, error) {
	data, err := p.w.Float32(name)
	if err != nil {
		return nil, err
	}
	return widen(data, p.params[name], p.wide[name])
}

// linear reads a linear map.
func (p *packer) linear(layer int, module string) (*packed, error) {
	name := model.LayerName(layer, module)
	shape := p.wide[name+".weight"].Shape
	if shape == nil {
		return nil, fmt.Errorf("layer %d has no %s", layer, module)
	}
	weight, err := p.read(name + ".weight")
	if err != nil {
		return nil, err
	}
	bias, err := p.read(name + ".bias")
	if err != nil {
		return nil, err
	}
	return &packed{rows: shape[0], cols: shape[1], weight: weight, bias: bias}, nil
}

// after reads linear maps of a norm's result as one map of what is normalised.
func (p *packer) after(layer int, norm string, modules ...string) (*packed, error) {
	name := model.LayerName(layer, norm)
	gain, err := p.read(name + ".weight")
	if err != nil {
		return nil, err
	}
	shift, err := p.read(name + ".bias")
	if err != nil {
		return nil, err
	}
	var all []*packed
	for _, m := range modules {
		l, err := p.linear(layer, m)
		if err != nil {
			return nil, err
		}
		if m == model.Key || m == model.Query {
			l = pairChannels(l, p.cfg)
		}
		all = append(all, foldNorm(l, gain, shift))
	}
	return stack(all...), nil
}

// layer packs one layer.
func (p *packer) layer(l int) (packedLayer, error) {
	var out packedLayer
	owns, mlps := p.cfg.Owner.Owns(l), p.cfg.KVIntermediateSize > 0
	attention := []string{model.Query}
	if owns && !mlps {
		attention = []string{model.Key, model.Value, model.Query}
	}
	var err error
	if out.split, err = p.after(l, model.InputNorm, attention...); err != nil {
		return out, err
	}
	if owns && mlps {
		if err := p.keyValueMLPs(l, &out); err != nil {
			return out, err
		}
	}
	mlpIn, err := p.after(l, model.PostNorm, model.MLPIn)
	if err != nil {
		return out, err
	}
	attended, err := p.linear(l, model.AttentionOut)
	if err != nil {
		return out, err
	}
	mlpOut, err := p.linear(l, model.MLPOut)
	if err != nil {
		return out, err
	}
	if !p.cfg.ParallelResidual {
		out.out, out.mlpIn, out.mlpOut = attended, mlpIn, mlpOut
		return out, nil
	}
	bias := append(out.split.bias, mlpIn.bias...)
	out.split = stack(&packed{out.split.rows, out.split.cols, out.split.weight, nil}, &packed{mlpIn.rows, mlpIn.cols, mlpIn.weight, nil})
	out.split.bias = bias
	out.out = beside(attended, mlpOut)
	return out, nil
}

// keyValueMLPs adds the two-layer projections of keys and values.
func (p *packer) keyValueMLPs(l int, out *packedLayer) (err error) {
	if out.kvIn, err = p.after(l, model.InputNorm, model.KeyIn, model.ValueIn); err != nil {
		return err
	}
	if out.keyOut, err = p.linear(l, model.KeyOut); err != nil {
		return err
	}
	out.keyOut = pairChannels(out.keyOut, p.cfg)
	if out.valueOut, err = p.linear(l, model.ValueOut); err != nil {
		return err
	}
	out.split.bias = append(append(append([]float32(nil), out.keyOut.bias...), out.valueOut.bias...), out.split.bias...)
	return nil
}

// pairChannels moves channels that rotary pairs next to each other.
func pairChannels(l *packed, cfg model.Config) *packed {
	out := &packed{l.rows, l.cols, make([]float32, len(l.weight)), make([]float32, len(l.bias))}
	half, size := cfg.RotaryDims()/2, cfg.HeadSize()
	for r := range l.rows {
		from := r
		if c := r % size; c < 2*half {
			from = r - c + c/2 + c%2*half
		}
		copy(out.weight[r*l.cols:(r+1)*l.cols], l.weight[from*l.cols:])
		out.bias[r] = l.bias[from]
	}
	return out
}

// foldNorm is the map of x*gain + shift as a map of x.
func foldNorm(l *packed, gain, shift []float32) *packed {
	out := &packed{l.rows, l.cols, make([]float32, len(l.weight)), make([]float32, len(l.bias))}
	blas.Chunks(l.rows, 64, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			row, to := l.weight[r*l.cols:(r+1)*l.cols], out.weight[r*l.cols:(r+1)*l.cols]
			sum := float64(l.bias[r])
			for c, w := range row {
				to[c] = w * gain[c]
				sum += float64(w) * float64(shift[c])
			}
			out.bias[r] = float32(sum)
		}
	})
	return out
}

// stack is one map to the results of several of the same input, one after another.
func stack(list ...*packed) *packed {
	out := &packed{cols: list[0].cols}
	for _, l := range list {
		out.rows += l.rows
		out.weight = append(out.weight, l.weight...)
		out.bias = append(out.bias, l.bias...)
	}
	return out
}

// beside is one map of two inputs, one after another, to the sum of the results.
func beside(a, b *packed) *packed {
	out := &packed{rows: a.rows, cols: a.cols + b.cols, weight: make([]float32, len(a.weight)+len(b.weight)), bias: make([]float32, len(a.bias))}
	for r := range a.rows {
		to := out.weight[r*out.cols : (r+1)*out.cols]
		copy(to, a.weight[r*a.cols:(r+1)*a.cols])
		copy(to[a.cols:], b.weight[r*b.cols:(r+1)*b.cols])
		out.bias[r] = a.bias[r] + b.bias[r]
	}
	return out
}
