package checkpoint

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/edsrzf/mmap-go"
)

// mapping is a file mapped for reading.
type mapping struct {
	data mmap.MMap // nil for an empty file
}

// mapFile maps a whole regular file.
func mapFile(path string) (mapping, error) {
	f, err := os.Open(path)
	if err != nil {
		return mapping{}, unwrapPath(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return mapping{}, unwrapPath(err)
	}
	if !info.Mode().IsRegular() {
		return mapping{}, fmt.Errorf("expected a regular file, found %s", info.Mode().Type())
	}
	if info.Size() == 0 {
		return mapping{}, nil
	}
	data, err := mmap.Map(f, mmap.RDONLY, 0)
	if err != nil {
		return mapping{}, fmt.Errorf("map: %w", err)
	}
	return mapping{data}, nil
}

// close unmaps the file; slices of its data are invalid from then on.
func (m *mapping) close() error {
	if m.data == nil {
		return nil
	}
	return m.data.Unmap()
}

// unwrapPath drops the path from an error of package os; callers put it at
// the front.
func unwrapPath(err error) error {
	if e, ok := err.(*fs.PathError); ok {
		return e.Err
	}
	return err
}
