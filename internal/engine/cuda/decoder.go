//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"errors"

	"mlkv/internal/engine"
	"mlkv/internal/model"
)

// ErrNoDecoder says that the engine trains and scores, but does not decode token
// by token.
var ErrNoDecoder = errors.New("the CUDA engine does not decode token by token; use --device cpu")

// Decoder implements engine.Engine.
func (e *Engine) Decoder(model.Config, engine.Weights, engine.DecodeOptions) (engine.Decoder, error) {
	return nil, ErrNoDecoder
}
