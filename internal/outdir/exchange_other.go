//go:build !linux

package outdir

import "errors"

// exchange reports that two folders cannot swap names in one step here.
func exchange(a, b string) error { return errors.ErrUnsupported }
