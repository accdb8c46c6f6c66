// Package cuda runs the model's graph on an NVIDIA GPU. It is compiled with the
// build tag gpu, which make sets where there is a C compiler; without it, every
// call returns ErrNotBuilt. A binary with it starts and works on machines without
// a driver too: see package gpu.
package cuda

import "errors"

// ErrNotBuilt says that the program has no CUDA engine.
var ErrNotBuilt = errors.New("this binary was built without CUDA; build it with `make` on Linux with a C compiler, or use --device cpu")
