package cuda

// Options say how an engine computes.
type Options struct {
	// Float32 stores activations and multiplies in float32, without TF32: the
	// mode for comparing with other devices. Otherwise they are bf16, with sums
	// in float32; those of a scorer are float32, multiplied as pairs of bf16.
	Float32 bool
	// Recompute says what a trainer computes again in its backward pass.
	Recompute Recompute
	// Warn is told of what costs time only, such as a cache that cannot be
	// written. It may be nil.
	Warn func(string)
}
