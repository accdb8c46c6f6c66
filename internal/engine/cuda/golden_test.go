//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/enginetest"
)

func openFloat32(t *testing.T) engine.Engine { return openGPU(t, Options{Float32: true}) }

func TestGoldenPlain(t *testing.T)  { enginetest.Plain(t, openFloat32) }
func TestGoldenShared(t *testing.T) { enginetest.Shared(t, openFloat32) }
func TestGoldenAdamW(t *testing.T)  { enginetest.AdamW(t, openFloat32) }
