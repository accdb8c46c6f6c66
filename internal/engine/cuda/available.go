//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import "mlkv/internal/engine/cuda/gpu"

// Available reports why no GPU can be used, nil where one can. The driver is
// opened by the first call.
func Available() error { return gpu.Load() }
