package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"mlkv/internal/ui"
)

// infoURL is where the hub tells the commit and the files of a revision.
func (c *client) infoURL(repo Repo) string {
	return fmt.Sprintf("%s/api/%s/%s/revision/%s?blobs=true", c.settings.Endpoint, repo.Kind, repo.ID, url.PathEscape(repo.Revision))
}

// fileURL is where the hub serves a file of a commit.
func (c *client) fileURL(repo Repo, commit, file string) string {
	prefix := ""
	if repo.Kind == DataSet {
		prefix = "/" + string(DataSet)
	}
	parts := strings.Split(file, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return fmt.Sprintf("%s%s/%s/resolve/%s/%s", c.settings.Endpoint, prefix, repo.ID, commit, strings.Join(parts, "/"))
}

// info asks for the commit and the files of a revision.
func (c *client) info(ctx context.Context, repo Repo) (commit string, files []File, err error) {
	var data []byte
	err = c.retry(ctx, repo.String(), func() (bool, error) {
		a, err := c.send(ctx, request{method: http.MethodGet, url: c.infoURL(repo)})
		if err != nil {
			return false, err
		}
		defer a.Close()
		if a.StatusCode != http.StatusOK {
			return false, c.refusal(a, repo, "")
		}
		data, err = io.ReadAll(io.LimitReader(a, maxAnswer))
		if err != nil {
			return false, passing{error: fmt.Errorf("list of files: %w", err)}
		}
		return false, nil
	})
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", repo, err)
	}
	if commit, files, err = parseInfo(data); err != nil {
		return "", nil, ui.Inputf("%s: answer of the hub %s: %w", repo, c.endpoint.Host, err)
	}
	return commit, files, nil
}

// complete asks for the size and checksum of the files of which the list does
// not tell them.
func (c *client) complete(ctx context.Context, repo Repo, commit string, files []File, connections int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(connections)
	for i := range files {
		if files[i].known() {
			continue
		}
		g.Go(func() error {
			what := fmt.Sprintf("%s: %s", repo, files[i].Path)
			err := c.retry(ctx, what, func() (bool, error) { return false, c.metadata(ctx, repo, commit, &files[i]) })
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// metadata asks for the size and checksum of a file.
func (c *client) metadata(ctx context.Context, repo Repo, commit string, f *File) error {
	a, err := c.send(ctx, request{method: http.MethodHead, url: c.fileURL(repo, commit, f.Path)})
	if err != nil {
		return err
	}
	defer a.Close()
	linked := a.Header.Get("X-Linked-Etag") != ""
	if a.StatusCode != http.StatusOK && !linked {
		return c.refusal(a, repo, f.Path)
	}
	etag, size := a.Header.Get("ETag"), a.Header.Get("Content-Length")
	if linked {
		etag = a.Header.Get("X-Linked-Etag")
		if s := a.Header.Get("X-Linked-Size"); s != "" {
			size = s
		} else if isRedirect(a.StatusCode) {
			size = "" // it is that of the redirect
		}
	}
	if err := f.set(cleanETag(etag), size); err != nil {
		return ui.Inputf("answer of the hub: %w", err)
	}
	return nil
}

// set takes size and checksum from headers.
func (f *File) set(etag, size string) error {
	if !etagPattern.MatchString(etag) {
		return fmt.Errorf("header ETag or X-Linked-Etag: expected 40 or 64 hexadecimal digits, found %.80q", etag)
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("header Content-Length or X-Linked-Size: expected the size of the file, found %.40q", size)
	}
	if f.Size >= 0 && f.Size != n {
		return fmt.Errorf("size: expected %d bytes as in the list of files, found %d", f.Size, n)
	}
	f.ETag, f.Size = etag, n
	return nil
}

// contentRange reads the header of that name, "bytes 0-99/1234". The total is
// negative where it is not told.
func contentRange(header string) (from, to, total int64, err error) {
	bad := fmt.Errorf("header Content-Range: expected bytes FROM-TO/TOTAL, found %.60q", header)
	span, ok := strings.CutPrefix(header, "bytes ")
	span, all, ok2 := strings.Cut(span, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, bad
	}
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	total = -1
	var err3 error
	if all != "*" {
		total, err3 = strconv.ParseInt(all, 10, 64)
	}
	if errors.Join(err1, err2, err3) != nil || from < 0 || to < from {
		return 0, 0, 0, bad
	}
	return from, to, total, nil
}
