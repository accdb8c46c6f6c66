package op

import (
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// View is a part of a packed result: Size(Shape) elements from Offset on. An
// operator that has several results packs them one after another.
//
// With Main, the part is the only one that gradients flow through, and the
// gradient of the pack is the gradient of that part.
type View struct {
	Offset int
	Main   bool
	Shape  tensor.Shape
}

// Part returns the view of a pack that begins at offset.
func Part(pack *gorgonia.Node, offset int, shape ...int) *gorgonia.Node {
	return Apply(View{Offset: offset, Shape: shape}, pack)
}

func (v View) OutShape(in []tensor.Shape) tensor.Shape {
	fits(v.Offset+Size(v.Shape) <= Size(in[0]), v, in)
	return v.Shape
}

// ViewOffset implements Viewer.
func (v View) ViewOffset() int { return v.Offset }

func (v View) Run(out Array, in []Array) {
	end := v.Offset + Size(v.Shape)
	copy(out.F32, sliceOf(in[0].F32, v.Offset, end))
	copy(out.F64, sliceOf(in[0].F64, v.Offset, end))
}

func sliceOf[T any](s []T, lo, hi int) []T {
	if s == nil {
		return nil
	}
	return s[lo:hi]
}

func (v View) Differentiates(int) []bool { return []bool{v.Main} }

func (v View) Grad(_ []*gorgonia.Node, _, grad *gorgonia.Node) []*gorgonia.Node {
	return []*gorgonia.Node{grad}
}
