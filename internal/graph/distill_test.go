package graph

import (
	"fmt"
	"strings"
	"testing"

	"gorgonia.org/gorgonia"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

func student() model.Config {
	c := model.Plain(31, 32, 4, 4)
	c.KVHeads, c.Owner, c.RotaryPct = 2, model.OwnerMap{0, 0, 2, 2}, 0.5
	return c
}

func build(t *testing.T, c model.Config, o Options) *Graph {
	t.Helper()
	o.Rows, o.Length = 2, 5
	g, err := Build(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestTeacherIsNotDifferentiated: a teacher adds the nodes of its forward pass
// and none of a backward one.
func TestTeacherIsNotDifferentiated(t *testing.T) {
	for _, teacher := range []model.Config{student(), model.Plain(31, 16, 3, 2)} {
		plain := build(t, student(), Options{Output: Gradients})
		alone := build(t, teacher, Options{Output: Activations})
		g := build(t, student(), Options{Output: Gradients, Distill: &Distill{Teacher: teacher, Weight: 0.5, Temperature: 2}})
		const tokens, parts = 1, 2 // shared with the model; views of the loss's parts
		if got, want := len(g.AllNodes()), len(plain.AllNodes())+len(alone.AllNodes())-tokens+parts; got != want {
			t.Errorf("%d nodes with a teacher, expected %d", got, want)
		}
		for name, n := range g.Teacher.Params {
			if !strings.HasPrefix(n.Name(), teacherPrefix) {
				t.Errorf("teacher's input %s is named %s", name, n.Name())
			}
			if n == g.Params[name] {
				t.Errorf("teacher and model share the input %s", name)
			}
			for _, reader := range readers(g, n) {
				switch o, _ := op.Of(reader); o.(type) {
				case op.Embed, op.Linear, op.LayerNorm, op.HeadDistill, op.HeadDistillGrad:
				default:
					t.Errorf("%T reads the teacher's %s", o, name)
				}
			}
		}
		if len(g.Grads) != len(g.Params) {
			t.Errorf("%d gradients of %d parameters", len(g.Grads), len(g.Params))
		}
		if g.CrossEntropy == nil || g.Divergence == nil {
			t.Error("the parts of the loss are missing")
		}
	}
}

func readers(g *Graph, n *gorgonia.Node) []*gorgonia.Node {
	var out []*gorgonia.Node
	for it := g.To(n.ID()); it.Next(); {
		out = append(out, it.Node().(*gorgonia.Node))
	}
	return out
}

func TestTeachersThatDoNotFit(t *testing.T) {
	other := student()
	other.VocabSize++
	broken := student()
	broken.Heads = 5
	for want, c := range map[string]struct {
		output Output
		d      Distill
	}{
		"vocab_size":  {Gradients, Distill{other, 0.5, 1}},
		"hidden_size": {Gradients, Distill{broken, 0.5, 1}},
		"weight":      {Gradients, Distill{student(), 1.5, 1}},
		"temperature": {Gradients, Distill{student(), 0.5, 0}},
		"no loss":     {Scores, Distill{student(), 0.5, 1}},
	} {
		_, err := Build(student(), Options{Rows: 1, Length: 3, Picked: 1, Output: c.output, Distill: &c.d})
		if err == nil || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("found %v, expected an error with %q", err, want)
		}
	}
}
