//go:build !gpu || !cgo || !linux || !(amd64 || arm64)

package cuda

import "mlkv/internal/engine"

// Available reports why no GPU can be used, nil where one can.
func Available() error { return ErrNotBuilt }

// Open reports that there is no GPU engine in this program.
func Open(int, Options) (engine.Engine, error) { return nil, ErrNotBuilt }

// Plan reports that there is no GPU engine in this program.
func Plan(int64, Options) (engine.Engine, error) { return nil, ErrNotBuilt }
