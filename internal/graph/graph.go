// Package graph writes the model once: a GPT-NeoX decoder whose layers share
// keys and values, as a gorgonia graph over the operators of package op, with
// its loss, its scores, its logits or its gradients.
package graph

import (
	"fmt"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// Output is what a graph computes.
type Output int

const (
	// Loss is the objective summed over the targets: the cross-entropy, or its
	// mixture with the divergence from a teacher.
	Loss Output = iota
	// Gradients are Loss and the gradient of every parameter.
	Gradients
	// Scores are log-likelihood and greedy flag of a target at every picked
	// position, [Picked, 2].
	Scores
	// Logits are those of every picked position, [Picked, V].
	Logits
	// Activations are what every layer's attention reads and makes; see Layer.
	Activations
)

// Options fix a graph's shapes.
type Options struct {
	Rows, Length int
	Output       Output
	// Picked is the number of positions that Scores and Logits read, named by
	// the input Index.
	Picked int
	// DType is Float32, or Float64 in derivative checks.
	DType tensor.Dtype
	// Distill lets Loss and Gradients learn from a teacher, too; nil: from the
	// targets alone.
	Distill *Distill
}

// Graph is a model as a gorgonia graph. Inputs are bound by the engine that
// runs it; fields that Options.Output does not call for are nil.
type Graph struct {
	Config  model.Config
	Options Options
	*gorgonia.ExprGraph

	Tokens  *gorgonia.Node // [Rows*Length] int32
	Targets *gorgonia.Node // [Rows*Length], or [Picked] for Scores; int32, negative where nothing counts
	Index   *gorgonia.Node // [Picked] int32: positions in the flattened batch
	Params  map[string]*gorgonia.Node

	Loss   *gorgonia.Node            // scalar
	Scores *gorgonia.Node            // [Picked, 2]
	Logits *gorgonia.Node            // [Picked, V]
	Grads  map[string]*gorgonia.Node // by parameter
	// Teacher is the model that is learned from. It reads the same Tokens and
	// has parameters of its own, but no gradients.
	Teacher *Graph
	// CrossEntropy and Divergence are the parts of Loss that Gradients of a
	// distillation leave, each a scalar summed over the targets, without
	// weights and temperature.
	CrossEntropy, Divergence *gorgonia.Node
	// Cache are the keys and values that incremental decoding keeps.
	Cache []Cached
	// Layers are the nodes of each layer's attention.
	Layers []Layer
}

// Layer are the nodes of one layer's attention, before rotary.
type Layer struct {
	Input      *gorgonia.Node // after layer norm, [N, H]
	Query      *gorgonia.Node // [N, A*D]
	Key, Value *gorgonia.Node // [N, G*D]; nil in a layer that borrows them
	Output     *gorgonia.Node // of the heads, before the output projection, [N, A*D]
}

// Cached are the keys and values that one owner layer leaves for the tokens to
// come, each [N, G*D]; nil where it owns the others only.
type Cached struct {
	Owner int
	// Key holds rotated keys, or unrotated ones where borrowers want them so.
	Key, Value *gorgonia.Node
	// Unrotated says that the owner itself must turn Key when it reads it.
	Unrotated bool
}

// Build writes the graph of a model.
func Build(cfg model.Config, o Options) (*Graph, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Rows < 1 || o.Length < 1 {
		return nil, fmt.Errorf("a batch of %d rows of %d tokens: both must be positive", o.Rows, o.Length)
	}
	if o.DType == (tensor.Dtype{}) {
		o.DType = tensor.Float32
	}
	if o.Distill != nil {
		if err := o.Distill.validate(cfg, o.Output); err != nil {
			return nil, err
		}
	}
	g := &Graph{Config: cfg, Options: o, ExprGraph: gorgonia.NewGraph(), Params: map[string]*gorgonia.Node{}}
	var err error
	if caught := op.Build(func() { err = g.build() }); caught != nil {
		return nil, caught
	}
	return g, err
}

func (g *Graph) build() error {
	n := g.Options.Rows * g.Options.Length
	g.parameters("")
	g.Tokens = g.integers("tokens", n)
	var learned *gorgonia.Node
	if g.Options.Distill != nil {
		learned = g.teach()
	}
	x, head := g.decoder(), g.head()
	switch g.Options.Output {
	case Loss, Gradients:
		g.Targets = g.integers("targets", n)
		if d := g.Options.Distill; d != nil {
			g.Loss = op.Apply(d.operator(), x, head, g.Targets, learned, g.Teacher.head())
			break
		}
		g.Loss = op.Apply(op.HeadLoss{}, x, head, g.Targets)
	case Scores, Logits:
		g.Index = g.integers("index", g.Options.Picked)
		x = op.Apply(op.Rows{}, x, g.Index)
		if g.Options.Output == Logits {
			g.Logits = op.Apply(op.Linear{}, x, head)
			break
		}
		g.Targets = g.integers("targets", g.Options.Picked)
		g.Scores = op.Apply(op.HeadScore{}, x, head, g.Targets)
	}
	if g.Options.Output == Gradients {
		return g.differentiate()
	}
	return nil
}

// parameters makes the model's inputs, under their names with a prefix.
func (g *Graph) parameters(prefix string) {
	for _, p := range g.Config.Params() {
		g.Params[p.Name] = gorgonia.NewTensor(g.ExprGraph, g.Options.DType, len(p.Shape),
			gorgonia.WithShape(p.Shape...), gorgonia.WithName(prefix+p.Name))
	}
}

// head is the weight of the output projection, [V, H].
func (g *Graph) head() *gorgonia.Node {
	if g.Config.TiedEmbeddings {
		return g.Params[model.EmbedIn]
	}
	return g.Params[model.EmbedOut]
}

func (g *Graph) integers(name string, n int) *gorgonia.Node {
	return gorgonia.NewVector(g.ExprGraph, tensor.Int32, gorgonia.WithShape(n), gorgonia.WithName(name))
}

// differentiate extends the graph by the gradient of every parameter. The loss
// is then read where the gradient leaves it, so that its own node need not run.
func (g *Graph) differentiate() error {
	params := g.Config.Params()
	wrt := make([]*gorgonia.Node, len(params))
	for i, p := range params {
		wrt[i] = g.Params[p.Name]
	}
	grads, err := gorgonia.Grad(g.Loss, wrt...)
	if err != nil {
		return fmt.Errorf("differentiating the model: %w", err)
	}
	g.Grads = make(map[string]*gorgonia.Node, len(params))
	for i, p := range params {
		g.Grads[p.Name] = grads[i]
	}
	for _, n := range g.AllNodes() {
		o, _ := op.Of(n)
		switch o.(type) {
		case op.HeadLossGrad:
			g.Loss = op.Part(n, 0)
		case op.HeadDistillGrad:
			g.Loss = op.Part(n, op.DistillObjective)
			g.CrossEntropy = op.Part(n, op.DistillCrossEntropy)
			g.Divergence = op.Part(n, op.DistillDivergence)
		}
	}
	return nil
}
