package graph

import (
	"fmt"

	"gorgonia.org/gorgonia"
	"mlkv/internal/model"
	"mlkv/internal/op"
)

// Distill says what a model learns from a teacher; see op.HeadDistill for the
// formula.
type Distill struct {
	Teacher     model.Config
	Weight      float64 // share of the divergence in the loss, 0 to 1
	Temperature float64 // of both distributions, more than 0
}

// teacherPrefix keeps the names of the teacher's inputs apart from the
// model's.
const teacherPrefix = "teacher."

func (d *Distill) operator() op.HeadDistill {
	return op.HeadDistill{Weight: d.Weight, Temperature: d.Temperature}
}

func (d *Distill) validate(student model.Config, o Output) error {
	if err := d.Teacher.Validate(); err != nil {
		return fmt.Errorf("teacher: %w", err)
	}
	switch {
	case o != Loss && o != Gradients:
		return fmt.Errorf("a teacher beside output %d, which has no loss", o)
	case d.Teacher.VocabSize != student.VocabSize:
		return fmt.Errorf("teacher: vocab_size: expected the model's %d, found %d", student.VocabSize, d.Teacher.VocabSize)
	case !(d.Weight >= 0 && d.Weight <= 1):
		return fmt.Errorf("weight of the divergence: expected 0 to 1, found %g", d.Weight)
	case !(d.Temperature > 0):
		return fmt.Errorf("temperature: expected more than 0, found %g", d.Temperature)
	}
	return nil
}

// teach adds the teacher up to its final layer norm, [N, H'] of its own width.
// It comes before the model: engines run nodes in the order in which they were
// made, so that the teacher's memory is free again when the model's is needed.
func (g *Graph) teach() *gorgonia.Node {
	o := Options{Rows: g.Options.Rows, Length: g.Options.Length, DType: g.Options.DType}
	g.Teacher = &Graph{Config: g.Options.Distill.Teacher, Options: o, ExprGraph: g.ExprGraph, Tokens: g.Tokens, Params: map[string]*gorgonia.Node{}}
	g.Teacher.parameters(teacherPrefix)
	return g.Teacher.decoder()
}
