package hub

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"mlkv/internal/outdir"
	"mlkv/internal/ui"
)

// fillFolder puts the files of a snapshot into a folder of their own, as copies
// or as hard links to the cache's blobs.
func fillFolder(ctx context.Context, out *outdir.Dir, snapshot string, files []File, link bool) error {
	for _, f := range files {
		to := filepath.Join(out.Path(), filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return fmt.Errorf("output folder: %w", err)
		}
		from, err := filepath.EvalSymlinks(filepath.Join(snapshot, filepath.FromSlash(f.Path)))
		if err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		if link {
			if err := os.Link(from, to); err != nil {
				return ui.Usagef("output folder: %w; leave out --link to copy, or choose a folder on the cache's disk", err)
			}
		} else if err := copyFile(ctx, from, to, f.Size); err != nil {
			return fmt.Errorf("output folder: %s: %w", f.Path, err)
		}
	}
	return nil
}

// copyFile copies in pieces, so that an interruption need not wait for the end.
func copyFile(ctx context.Context, from, to string, size int64) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
	}()
	for copied := int64(0); copied < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(out, in, min(64<<20, size-copied))
		if copied += n; err != nil {
			return err
		}
	}
	return nil
}
