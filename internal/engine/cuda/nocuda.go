//go:build !gpu || !cgo || !linux || !(amd64 || arm64)

package cuda

// Available reports why no GPU can be used, nil where one can.
func Available() error { return ErrNotBuilt }
