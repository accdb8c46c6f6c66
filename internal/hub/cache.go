package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// cache is the folder of a repository in the hub's cache. All that it writes
// goes through an os.Root, so that no link in the folder leads out of it.
type cache struct {
	dir   string
	locks string
	root  *os.Root
}

// openCache makes the repository's folder where it does not exist.
func openCache(base string, repo Repo) (*cache, error) {
	c := &cache{
		dir:   filepath.Join(base, repo.folder()),
		locks: filepath.Join(base, ".locks", repo.folder()),
	}
	for _, dir := range []string{c.dir, c.locks} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
	var err error
	if c.root, err = os.OpenRoot(c.dir); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	for _, dir := range []string{"blobs", "refs", "snapshots"} {
		if err := c.mkdir(dir); err != nil {
			c.root.Close()
			return nil, err
		}
	}
	return c, nil
}

// mkdir makes a folder and those above it. A link in the place of a folder is
// refused.
func (c *cache) mkdir(dir string) error {
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		err := c.root.Mkdir(dir[:i], 0o777)
		if err == nil {
			continue
		}
		if info, statErr := c.root.Lstat(dir[:i]); statErr != nil || !info.IsDir() {
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("cache: %s: expected a folder, found something else; remove it", filepath.Join(c.dir, dir[:i]))
			}
			return fmt.Errorf("cache: %s: %w", c.dir, err)
		}
	}
	return nil
}

func blobName(etag string) string { return "blobs/" + etag }

// has says whether a file's content is there. Blobs have their name only once
// they were verified; the size tells those that lost their end since.
func (c *cache) has(f File) bool {
	info, err := os.Stat(filepath.Join(c.dir, blobName(f.ETag)))
	return err == nil && info.Mode().IsRegular() && info.Size() == f.Size
}

// lock keeps other processes, also the hub's own tools, from fetching the same
// content. Where another one does, it calls waiting once and waits.
func (c *cache) lock(ctx context.Context, etag string, waiting func()) (*flock.Flock, error) {
	l := flock.New(filepath.Join(c.locks, etag+".lock"), flock.SetPermissions(0o666))
	held, err := l.TryLock()
	if err == nil && !held {
		waiting()
		held, err = l.TryLockContext(ctx, 100*time.Millisecond)
	}
	if !held {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("cache: lock %s: %w", l.Path(), err)
	}
	return l, nil
}

// staging is where a snapshot is put together: beside snapshots and as deep, so
// that its links hold in both places.
const staging = ".mlkv-staging"

// publish makes the snapshot of a commit hold the files, whose blobs are there.
// A snapshot that does not exist appears at once with all of them.
func (c *cache) publish(ctx context.Context, commit string, files []File) error {
	l, err := c.lock(ctx, "mlkv-publish", func() {})
	if err != nil {
		return err
	}
	defer l.Close()
	final := "snapshots/" + commit
	if _, err := c.root.Lstat(final); err == nil {
		return c.linkAll(final, files)
	}
	c.root.RemoveAll(staging)
	defer c.root.RemoveAll(staging)
	if err := c.linkAll(path.Join(staging, commit), files); err != nil {
		return err
	}
	if err := c.root.Rename(path.Join(staging, commit), final); err != nil {
		if _, statErr := c.root.Lstat(final); statErr != nil {
			return fmt.Errorf("cache: %w", err)
		}
		return c.linkAll(final, files) // another tool was faster
	}
	return nil
}

func (c *cache) linkAll(folder string, files []File) error {
	for _, f := range files {
		if err := c.link(path.Join(folder, f.Path), f.ETag); err != nil {
			return fmt.Errorf("cache: %s: %w", filepath.Join(c.dir, folder, f.Path), err)
		}
	}
	return nil
}

// link makes name a relative link to a blob, replacing what is there.
func (c *cache) link(name, etag string) error {
	target := strings.Repeat("../", strings.Count(name, "/")) + blobName(etag)
	if now, err := c.root.Readlink(name); err == nil && now == target {
		return nil
	}
	if err := c.mkdir(path.Dir(name)); err != nil {
		return err
	}
	temp := path.Join(path.Dir(name), ".mlkv-link")
	c.root.Remove(temp)
	if err := c.root.Symlink(target, temp); err != nil {
		// Some file systems know no symbolic links, but hard ones.
		if linkErr := c.root.Link(blobName(etag), temp); linkErr != nil {
			return err
		}
	}
	if err := c.root.Rename(temp, name); err != nil {
		c.root.Remove(temp)
		return err
	}
	return nil
}

// setRef notes the commit that a branch or tag stands for.
func (c *cache) setRef(revision, commit string) error {
	if revision == commit {
		return nil
	}
	name := "refs/" + revision
	if now, err := c.root.ReadFile(name); err == nil && string(now) == commit {
		return nil
	}
	if err := c.mkdir(path.Dir(name)); err != nil {
		return err
	}
	temp := fmt.Sprintf("refs/.%s.%d.tmp", commit, os.Getpid())
	c.root.Remove(temp)
	if err := c.root.WriteFile(temp, []byte(commit), 0o666); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	if err := c.root.Rename(temp, name); err != nil {
		c.root.Remove(temp)
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// snapshot is the folder of a commit's files.
func (c *cache) snapshot(commit string) string { return filepath.Join(c.dir, "snapshots", commit) }

func (c *cache) close() { c.root.Close() }
