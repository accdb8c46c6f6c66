package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// File is a file of a repository.
type File struct {
	Path string `json:"path"` // slash-separated, below the snapshot
	Size int64  `json:"size"` // bytes; negative where it is not yet known
	// ETag is the checksum and the blob's name: the SHA-256 of a large file, or
	// the SHA-1 that git gives a small one. Empty where it is not yet known.
	ETag string `json:"etag"`
}

// known says whether the file can be fetched and checked.
func (f File) known() bool { return f.Size >= 0 && f.ETag != "" }

// etagPattern is what can be checked and is safe as a file name.
var etagPattern = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// manyFiles is the number of files from which the hub cuts the list in this
// answer off.
const manyFiles = 50_000

// parseInfo reads the hub's answer about a revision: its commit and its files.
func parseInfo(data []byte) (commit string, files []File, err error) {
	var info struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
			Size *int64 `json:"size"`
			Blob string `json:"blobId"`
			LFS  *struct {
				SHA256 string `json:"sha256"`
				Size   *int64 `json:"size"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return "", nil, fmt.Errorf("expected a JSON object with sha and siblings: %w", err)
	}
	if !commitPattern.MatchString(info.SHA) {
		return "", nil, fmt.Errorf("field sha: expected a commit of 40 hexadecimal digits, found %.60q", info.SHA)
	}
	if len(info.Siblings) >= manyFiles {
		return "", nil, fmt.Errorf("field siblings: expected fewer than %d files, found %d; the list may be cut off", manyFiles, len(info.Siblings))
	}
	for _, s := range info.Siblings {
		f := File{Path: s.Name, Size: -1}
		size, etag := s.Size, s.Blob
		if s.LFS != nil { // blobId is then that of the pointer
			etag = s.LFS.SHA256
			if s.LFS.Size != nil {
				size = s.LFS.Size
			}
		}
		if size != nil {
			if *size < 0 {
				return "", nil, fmt.Errorf("file %q: size: expected 0 or more, found %d", f.Path, *size)
			}
			f.Size = *size
		}
		if etag != "" && !etagPattern.MatchString(etag) {
			return "", nil, fmt.Errorf("file %q: checksum: expected 40 or 64 hexadecimal digits, found %.80q", f.Path, etag)
		}
		f.ETag = etag
		files = append(files, f)
	}
	return info.SHA, files, checkPaths(files)
}

// checkPaths refuses names that could lead out of a folder and names that
// cannot stand beside each other in one.
func checkPaths(files []File) error {
	names := map[string]bool{}
	for _, f := range files {
		if err := checkPath(f.Path); err != nil {
			return fmt.Errorf("file name %.200q is refused: %w", f.Path, err)
		}
		if names[f.Path] {
			return fmt.Errorf("file name %q: expected once, found twice", f.Path)
		}
		names[f.Path] = true
	}
	for name := range names {
		for i, c := range name {
			if c == '/' && names[name[:i]] {
				return fmt.Errorf("file name %q: expected a folder at %q, found a file of that name", name, name[:i])
			}
		}
	}
	return nil
}

func checkPath(name string) error {
	if name == "" || len(name) > 1024 {
		return fmt.Errorf("expected 1 to 1024 bytes, found %d", len(name))
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == '\ufffd' }) {
		return errors.New("it holds a backslash or a character that is not printable")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return errors.New("expected a path below the repository")
		}
	}
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return errors.New("expected a path below the repository")
	}
	return nil
}

// cleanETag takes the quotes and the mark of weakness off a header's value.
func cleanETag(header string) string {
	return strings.Trim(strings.TrimPrefix(header, "W/"), `"`)
}
