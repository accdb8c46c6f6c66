package outdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// replace gives temp the name final. Without force a folder of that name must
// be empty. With force it is exchanged in one step where the file system can do
// so, and moved aside first where not.
func replace(temp, final string, force bool) error {
	err := os.Rename(temp, final)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !force {
		if err := os.Remove(final); err != nil {
			return err
		}
		return os.Rename(temp, final)
	}
	// The old folder is about to take the temporary name, which others may
	// lock; it is locked here until it is gone.
	old := flock.New(final, flock.SetFlag(os.O_RDONLY))
	defer old.Close()
	if err := old.Lock(); err != nil {
		return err
	}
	err = exchange(temp, final)
	if err == nil {
		return os.RemoveAll(temp)
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	aside := asideName(final)
	if err := os.Rename(final, aside); err != nil {
		return err
	}
	if err := os.Rename(temp, final); err != nil {
		return errors.Join(err, os.Rename(aside, final))
	}
	return os.RemoveAll(aside)
}

// asideName is where replace keeps the old folder while the new one takes its
// name.
func asideName(final string) string {
	return filepath.Join(filepath.Dir(final), "."+filepath.Base(final)+".old")
}

// restoreAside undoes or completes a replacement that was cut short between
// its two renames.
func restoreAside(final string) error {
	aside := asideName(final)
	if _, err := os.Stat(aside); err != nil {
		return nil
	}
	if _, err := os.Stat(final); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(aside, final)
	}
	return os.RemoveAll(aside)
}

// syncTree writes every file and folder below root through to the disk.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() && !e.Type().IsRegular() {
			return nil
		}
		return syncFile(path)
	})
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
