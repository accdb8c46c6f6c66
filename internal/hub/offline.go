package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mlkv/internal/ui"
)

// snapshotOf finds the snapshot that a repository's revision stands for in the
// cache. Errors say what is not there.
func snapshotOf(base string, repo Repo) (commit, folder string, err error) {
	dir := filepath.Join(base, repo.folder())
	commit = repo.Revision
	if !commitPattern.MatchString(commit) {
		data, err := os.ReadFile(filepath.Join(dir, "refs", filepath.FromSlash(repo.Revision)))
		if err != nil {
			return "", "", fmt.Errorf("the cache %s does not hold revision %s of it", base, repo.Revision)
		}
		if commit = strings.TrimSpace(string(data)); !commitPattern.MatchString(commit) {
			return "", "", fmt.Errorf("%s: refs/%s: expected a commit, found %.60q", dir, repo.Revision, commit)
		}
	}
	folder = filepath.Join(dir, "snapshots", commit)
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return "", "", fmt.Errorf("the cache %s does not hold commit %s of it", base, commit)
	}
	return commit, folder, nil
}

// snapshotFiles lists what a snapshot holds. A checksum is known where the file
// is a link to its blob.
func snapshotFiles(folder string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(folder, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(folder, name)
		if err != nil {
			return err
		}
		f := File{Path: filepath.ToSlash(rel), Size: info.Size()}
		if target, err := os.Readlink(name); err == nil && etagPattern.MatchString(filepath.Base(target)) {
			f.ETag = filepath.Base(target)
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

// offline does with the cache alone what a pull does.
func (p *pull) offline(ctx context.Context) error {
	fail := func(err error) error {
		return ui.Inputf("%s: offline mode (HF_HUB_OFFLINE): %w; unset the variable to fetch it", p.repo, err)
	}
	if p.List {
		return ui.Usagef("--list asks the hub, which offline mode (HF_HUB_OFFLINE) does not allow")
	}
	commit, folder, err := snapshotOf(p.Settings.Cache, p.repo)
	if err != nil {
		return fail(err)
	}
	files, err := snapshotFiles(folder)
	if err == nil && len(p.Include) == 0 && p.repo.Kind == Model {
		err = checkModel(folder)
	}
	if err != nil {
		return fail(err)
	}
	p.commit = commit
	if p.files, err = choose(p.repo, files, p.Include, p.Exclude); err != nil {
		return fail(err)
	}
	if err := p.verifyCached(ctx, folder); err != nil {
		return err
	}
	out, err := p.openOut()
	if err != nil {
		return err
	}
	if out != nil {
		defer out.Abort()
	}
	if err := p.fill(ctx, out, folder); err != nil {
		return err
	}
	return p.result(folder)
}

// verifyCached compares checksums, where the user asks for it.
func (p *pull) verifyCached(ctx context.Context, folder string) error {
	if !p.Verify {
		return nil
	}
	for _, f := range p.files {
		if f.ETag == "" {
			continue
		}
		content, err := os.Open(filepath.Join(folder, filepath.FromSlash(f.Path)))
		if err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		err = verify(ctx, content, f)
		content.Close()
		if errors.As(err, new(mismatch)) {
			err = ui.Inputf("%s: the cached file is damaged: %w; unset HF_HUB_OFFLINE to fetch it again", f.Path, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cachedBytes tells how much of a file the cache holds, without making
// anything.
func cachedBytes(base string, repo Repo, f File) int64 {
	dir := filepath.Join(base, repo.folder())
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0
	}
	defer root.Close()
	return (&cache{dir: dir, root: root}).received(f)
}
