package checkpoint

import "math"

// f16to32 widens an IEEE binary16 number; every value is exact.
func f16to32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	magnitude := uint32(h & 0x7fff)
	if magnitude >= 0x7c00 { // infinity or NaN
		return math.Float32frombits(sign | 0x7f800000 | (magnitude&0x3ff)<<13)
	}
	// The exponent is rebased by a product with 2^112, which also brings
	// subnormal numbers to their place.
	f := math.Float32frombits(magnitude<<13) * 0x1p112
	return math.Float32frombits(math.Float32bits(f) | sign)
}

// f32to16 rounds to the nearest IEEE binary16 number, ties to even. Numbers
// beyond 65504 become infinite.
func f32to16(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits >> 16 & 0x8000)
	bits &= 0x7fffffff
	switch {
	case bits > 0x7f800000: // NaN, kept quiet
		return sign | 0x7e00 | uint16(bits>>13&0x3ff)
	case bits >= 0x477ff000: // rounds to 65536 or more
		return sign | 0x7c00
	case bits < 0x38800000: // subnormal: a sum with 0.5 puts the last bit at 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(bits)+0.5)-0x3f000000)
	}
	odd := bits >> 13 & 1
	return sign | uint16((bits-0x38000000+0xfff+odd)>>13)
}

// bf16to32 widens a bfloat16 number; every value is exact.
func bf16to32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// f32tobf16 rounds to the nearest bfloat16 number, ties to even.
func f32tobf16(f float32) uint16 {
	bits := math.Float32bits(f)
	if bits&0x7fffffff > 0x7f800000 { // NaN, kept quiet
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// Round rounds every element of x to the nearest value that d can hold, in
// place.
func Round(x []float32, d DType) {
	switch d {
	case F16:
		Parallel(len(x), func(lo, hi int) {
			for i, v := range x[lo:hi] {
				x[lo+i] = f16to32(f32to16(v))
			}
		})
	case BF16:
		Parallel(len(x), func(lo, hi int) {
			for i, v := range x[lo:hi] {
				x[lo+i] = bf16to32(f32tobf16(v))
			}
		})
	}
}
