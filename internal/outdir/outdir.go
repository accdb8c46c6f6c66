// Package outdir makes finished folders appear at once. A command writes into
// a locked folder beside the final name; Commit syncs it and renames it. A
// crash at any point leaves the final name as it was, and what the crash left
// beside it is removed by the next Create of the same name.
package outdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"mlkv/internal/ui"
)

// Dir is an output folder that has not yet its final name.
type Dir struct {
	final string
	temp  string
	force bool
	lock  *flock.Flock // on temp; nil after Commit and Abort
}

// Create makes a temporary folder beside path, to be renamed to path by
// Commit. Missing parents are made. It refuses a path that exists, unless it
// is an empty folder or force is set, and a path that another process is
// writing; both errors carry ui.ExitUsage.
func Create(path string, force bool) (*Dir, error) {
	final, err := resolve(path)
	if err != nil {
		return nil, err
	}
	if err := checkFree(final, force); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o777); err != nil {
		return nil, fmt.Errorf("output folder %s: %w", path, err)
	}
	temp := filepath.Join(filepath.Dir(final), "."+filepath.Base(final)+".partial")
	lock, err := lockDir(temp, path)
	if err != nil {
		return nil, err
	}
	d := &Dir{final: final, temp: temp, force: force, lock: lock}
	if err := d.recover(); err != nil {
		d.Abort()
		return nil, fmt.Errorf("output folder %s: remove what an earlier run left: %w", path, err)
	}
	return d, nil
}

// Path is the folder to write into until Commit.
func (d *Dir) Path() string { return d.temp }

// Commit writes everything through to the disk and gives the folder its final
// name. With force, a folder of that name is replaced.
func (d *Dir) Commit() error {
	if d.lock == nil {
		return fmt.Errorf("output folder %s: committed or aborted before", d.final)
	}
	if err := syncTree(d.temp); err != nil {
		return fmt.Errorf("output folder %s: %w", d.final, err)
	}
	if err := checkFree(d.final, d.force); err != nil {
		return err
	}
	if err := replace(d.temp, d.final, d.force); err != nil {
		return fmt.Errorf("output folder %s: %w", d.final, err)
	}
	err := syncFile(filepath.Dir(d.final))
	d.unlock()
	if err != nil {
		return fmt.Errorf("output folder %s: %w", d.final, err)
	}
	return nil
}

// Abort removes what was written. After Commit it does nothing, so that it can
// be deferred.
func (d *Dir) Abort() {
	if d.lock == nil {
		return
	}
	os.RemoveAll(d.temp)
	d.unlock()
}

func (d *Dir) unlock() {
	d.lock.Close()
	d.lock = nil
}

// recover clears what a run that crashed left under the names that d uses.
// The lock is held.
func (d *Dir) recover() error {
	if err := restoreAside(d.final); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.temp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(d.temp, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// resolve returns the absolute path behind path, following a symbolic link.
func resolve(path string) (string, error) {
	if path == "" {
		return "", ui.Usagef("output folder: no path given")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("output folder %s: %w", path, err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real, nil
	}
	return abs, nil
}

// checkFree reports whether final may be written to.
func checkFree(final string, force bool) error {
	info, err := os.Stat(final)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return ui.Usagef("output folder %s: %w", final, err)
	case !info.IsDir():
		return ui.Usagef("output folder %s: expected a folder or a free name, found a file", final)
	case force:
		return nil
	}
	entries, err := os.ReadDir(final)
	if err != nil {
		return ui.Usagef("output folder %s: %w", final, err)
	}
	if len(entries) > 0 {
		return ui.Usagef("output folder %s: expected an empty folder or a free name, found %d entries; choose another name or pass --force to replace it",
			final, len(entries))
	}
	return nil
}

// lockDir makes the folder temp where it does not exist and locks it. The lock
// is on the folder itself, so it ends with the process and leaves no file.
func lockDir(temp, path string) (*flock.Flock, error) {
	const attempts = 100
	for range attempts {
		if err := os.Mkdir(temp, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("output folder %s: %w", path, err)
		}
		lock := flock.New(temp, flock.SetFlag(os.O_RDONLY))
		held, err := lock.TryLock()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // renamed or removed by its holder in between
		case err != nil:
			return nil, fmt.Errorf("output folder %s: lock %s: %w", path, temp, err)
		case !held:
			lock.Close()
			return nil, ui.Usagef("output folder %s: in use: another process is writing it (it holds %s); wait for it or choose another name", path, temp)
		}
		if locked, err := lock.Stat(); err == nil {
			if now, err := os.Stat(temp); err == nil && os.SameFile(locked, now) {
				return lock, nil
			}
		}
		lock.Close() // the name stands for another folder by now
	}
	return nil, fmt.Errorf("output folder %s: could not lock %s in %d attempts", path, temp, attempts)
}
