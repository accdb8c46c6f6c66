package checkpoint

import "fmt"

// DType is the element type of a stored tensor, by its safetensors name.
type DType string

// The element types that weights may have.
const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
)

// The integer types of arrays beside weights.
const (
	I32 DType = "I32"
	I64 DType = "I64"
	U8  DType = "U8"
)

// sizes holds the bytes of one element for every type of the safetensors
// format whose elements fill whole bytes.
var sizes = map[DType]int{
	"BOOL": 1, U8: 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
	"I16": 2, "U16": 2, F16: 2, BF16: 2,
	I32: 4, "U32": 4, F32: 4,
	I64: 8, "U64": 8, "F64": 8, "C64": 8,
}

// Size is the number of bytes of one element, 0 for an unknown type.
func (d DType) Size() int { return sizes[d] }

// Weight reports whether weights may have the type.
func (d DType) Weight() bool { return d == F32 || d == F16 || d == BF16 }

// TorchName is the name that config.json uses for the type, for example
// "float16".
func (d DType) TorchName() string {
	switch d {
	case F32:
		return "float32"
	case F16:
		return "float16"
	case BF16:
		return "bfloat16"
	}
	return string(d)
}

// ParseDType reads the name of a weight type as PyTorch writes it ("float32",
// "float16", "bfloat16") or as safetensors does ("F32", "F16", "BF16").
func ParseDType(s string) (DType, error) {
	for _, d := range []DType{F32, F16, BF16} {
		if s == string(d) || s == d.TorchName() {
			return d, nil
		}
	}
	return "", fmt.Errorf("dtype: expected float32, float16 or bfloat16, found %q", s)
}
