package op

import (
	"fmt"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// Array is a dense row-major array on the CPU: one of its slices is set.
type Array struct {
	Shape tensor.Shape
	F32   []float32
	F64   []float64
	I32   []int32
}

// NewArray makes an array of zeros.
func NewArray(d tensor.Dtype, shape tensor.Shape) Array {
	a := Array{Shape: shape}
	n := Size(shape)
	switch d {
	case tensor.Float32:
		a.F32 = make([]float32, n)
	case tensor.Float64:
		a.F64 = make([]float64, n)
	case tensor.Int32:
		a.I32 = make([]int32, n)
	default:
		panic(fmt.Sprintf("array of %v", d))
	}
	return a
}

// Size is the number of elements of a shape, 1 for a scalar.
func Size(s tensor.Shape) int {
	n := 1
	for _, d := range s {
		n *= d
	}
	return n
}

// FromValue is the array behind a gorgonia value, without a copy.
func FromValue(v gorgonia.Value) (Array, error) {
	a := Array{Shape: v.Shape()}
	switch d := v.Data().(type) {
	case []float32:
		a.F32 = d
	case []float64:
		a.F64 = d
	case []int32:
		a.I32 = d
	case float32:
		a.F32 = []float32{d}
	case float64:
		a.F64 = []float64{d}
	default:
		return a, fmt.Errorf("expected float32, float64 or int32 elements, found %T", d)
	}
	return a, nil
}

// Value is the array as a gorgonia value, without a copy.
func (a Array) Value() gorgonia.Value {
	var backing any
	switch {
	case a.F32 != nil:
		if len(a.Shape) == 0 {
			return gorgonia.NewF32(a.F32[0])
		}
		backing = a.F32
	case a.F64 != nil:
		if len(a.Shape) == 0 {
			return gorgonia.NewF64(a.F64[0])
		}
		backing = a.F64
	default:
		backing = a.I32
	}
	return tensor.New(tensor.WithShape(a.Shape...), tensor.WithBacking(backing))
}

// args are an operator's inputs in one float type; Ints[i] is set instead of
// F[i] where the input holds integers.
type args[T blas.Float] struct {
	F     [][]T
	Ints  [][]int32
	Shape []tensor.Shape
}

// run calls the kernel of the output's float type.
func run[O any](o O, out Array, in []Array, f32 func(O, []float32, args[float32]), f64 func(O, []float64, args[float64])) {
	if out.F64 != nil {
		a := args[float64]{}
		for _, x := range in {
			a.F, a.Ints, a.Shape = append(a.F, x.F64), append(a.Ints, x.I32), append(a.Shape, x.Shape)
		}
		f64(o, out.F64, a)
		return
	}
	a := args[float32]{}
	for _, x := range in {
		a.F, a.Ints, a.Shape = append(a.F, x.F32), append(a.Ints, x.I32), append(a.Shape, x.Shape)
	}
	f32(o, out.F32, a)
}
