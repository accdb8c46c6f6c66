package outdir

import (
	"fmt"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// WriteFile replaces the file at path by data in one step: a reader sees the
// old content or the new, after a crash too.
func WriteFile(path string, data []byte) error {
	err := renameio.WriteFile(path, data, 0o666, renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
