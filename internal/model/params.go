package model

import "fmt"

// Kind tells what a parameter is used for.
type Kind int

const (
	// Embedding is a table of rows by token id.
	Embedding Kind = iota
	// Matrix is the weight of a linear map, stored [out, in].
	Matrix
	// Bias is the offset of a linear map.
	Bias
	// Norm is the weight or the bias of a layer norm.
	Norm
)

// Part groups parameters in counts and reports.
type Part string

const (
	PartEmbedding Part = "embeddings"
	PartQuery     Part = "query"
	PartKeyValue  Part = "key and value"
	PartOutput    Part = "attention output"
	PartMLP       Part = "MLP"
	PartNorm      Part = "layer norms"
)

// Param is one trainable tensor of a model.
type Param struct {
	Name  string
	Shape []int // row-major; matrices are [out, in]
	Kind  Kind
	Part  Part
	Layer int // -1 outside the layers
}

// Size is the number of elements.
func (p Param) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Decays reports whether weight decay acts on the parameter under the rule of
// the Hugging Face Trainer: all but biases and layer norms.
func (p Param) Decays() bool { return p.Kind == Matrix || p.Kind == Embedding }

// Names of the parameters outside the layers.
const (
	EmbedIn       = "gpt_neox.embed_in.weight"
	EmbedOut      = "embed_out.weight"
	FinalNormName = "gpt_neox.final_layer_norm"
)

// Names of a layer's modules, to be completed by LayerName and ".weight" or
// ".bias". They are those of the MLKV authors' checkpoints; QueryKeyValue is
// the fused projection of a plain GPT-NeoX checkpoint.
const (
	InputNorm     = "input_layernorm"
	PostNorm      = "post_attention_layernorm"
	QueryKeyValue = "attention.query_key_value"
	Query         = "attention.query"
	Key           = "attention.key"
	Value         = "attention.value"
	AttentionOut  = "attention.dense"
	KeyIn         = "attention.key.dense_in"
	KeyOut        = "attention.key.dense_out"
	ValueIn       = "attention.value.dense_in"
	ValueOut      = "attention.value.dense_out"
	MLPIn         = "mlp.dense_h_to_4h"
	MLPOut        = "mlp.dense_4h_to_h"
)

// LayerName is the full name of a layer's module, without ".weight".
func LayerName(layer int, module string) string {
	return fmt.Sprintf("gpt_neox.layers.%d.%s", layer, module)
}

// Params lists every trainable tensor in the order of the forward pass. Query,
// key and value are separate tensors, in plain multi-head models too; package
// checkpoint fuses and splits them where a file holds query_key_value.
func (c Config) Params() []Param {
	h := c.HiddenSize
	ps := []Param{{EmbedIn, []int{c.VocabSize, h}, Embedding, PartEmbedding, -1}}
	for l := range c.Layers {
		linear := func(module string, out, in int, part Part) {
			name := LayerName(l, module)
			ps = append(ps,
				Param{name + ".weight", []int{out, in}, Matrix, part, l},
				Param{name + ".bias", []int{out}, Bias, part, l})
		}
		norm := func(module string) {
			name := LayerName(l, module)
			ps = append(ps,
				Param{name + ".weight", []int{h}, Norm, PartNorm, l},
				Param{name + ".bias", []int{h}, Norm, PartNorm, l})
		}
		norm(InputNorm)
		norm(PostNorm)
		linear(Query, h, h, PartQuery)
		shared := func(m OwnerMap, module, in, out string) {
			switch {
			case !m.Owns(l):
			case c.KVIntermediateSize > 0:
				linear(in, c.KVIntermediateSize, h, PartKeyValue)
				linear(out, c.KVSize(), c.KVIntermediateSize, PartKeyValue)
			default:
				linear(module, c.KVSize(), h, PartKeyValue)
			}
		}
		shared(c.Owner, Key, KeyIn, KeyOut)
		shared(c.ValueOwners(), Value, ValueIn, ValueOut)
		linear(AttentionOut, h, h, PartOutput)
		linear(MLPIn, c.IntermediateSize, h, PartMLP)
		linear(MLPOut, h, c.IntermediateSize, PartMLP)
	}
	ps = append(ps,
		Param{FinalNormName + ".weight", []int{h}, Norm, PartNorm, -1},
		Param{FinalNormName + ".bias", []int{h}, Norm, PartNorm, -1})
	if !c.TiedEmbeddings {
		ps = append(ps, Param{EmbedOut, []int{c.VocabSize, h}, Embedding, PartEmbedding, -1})
	}
	return ps
}

// Parameters counts all trainable elements.
func (c Config) Parameters() int {
	n := 0
	for _, p := range c.Params() {
		n += p.Size()
	}
	return n
}

// ParametersByPart counts trainable elements by what they are used for.
func (c Config) ParametersByPart() map[Part]int {
	out := map[Part]int{}
	for _, p := range c.Params() {
		out[p.Part] += p.Size()
	}
	return out
}

// KVElements is the size of the key/value cache in elements for one token of
// one sequence: 2 * m * g * k of the MLKV paper's formula, with m owners, g
// key/value heads and k channels a head. Where keys and values have owners of their
// own, their numbers take the place of 2 * m.
func (c Config) KVElements() int { return (c.Owner.Owners() + c.ValueOwners().Owners()) * c.KVSize() }

// KVBytes is the size of the key/value cache in bytes, for sequences of the
// given length in a batch, at elementSize bytes an element.
func (c Config) KVBytes(batch, length, elementSize int) int {
	return batch * length * c.KVElements() * elementSize
}

// Products counts the multiply-adds of matrix products in one forward pass of
// one token, attention excluded: what "6N" counts when multiplied by 6. The
// output projection is included, the embedding lookup is not.
func (c Config) Products() int {
	n := c.VocabSize * c.HiddenSize
	for _, p := range c.Params() {
		if p.Kind == Matrix {
			n += p.Size()
		}
	}
	return n
}

// TrainingFLOPs counts the floating-point operations of one training step's
// forward and backward pass over a token in a sequence of the given length:
// 6 for each multiply-add of a product plus causal attention,
// 6 * layers * hidden * length.
func (c Config) TrainingFLOPs(length int) float64 {
	return 6*float64(c.Products()) + 6*float64(c.Layers)*float64(c.HiddenSize)*float64(length)
}
