package cpu

import (
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/enginetest"
)

func open(*testing.T) engine.Engine { return Open(0) }

func TestGoldenPlain(t *testing.T)  { enginetest.Plain(t, open) }
func TestGoldenShared(t *testing.T) { enginetest.Shared(t, open) }
func TestGoldenAdamW(t *testing.T)  { enginetest.AdamW(t, open) }
