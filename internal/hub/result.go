package hub

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"mlkv/internal/ui"
)

// Listing is what --json prints: what was pulled, or with --list would be.
type Listing struct {
	Repo     string `json:"repo"` // as ParseRepo reads it
	Revision string `json:"revision"`
	Commit   string `json:"commit"`
	Folder   string `json:"folder,omitempty"` // that holds the files
	Bytes    int64  `json:"bytes"`            // of all files
	Missing  int64  `json:"missing"`          // bytes of them that are not in the cache
	Files    []File `json:"files"`
}

func (p *pull) listing() Listing {
	l := Listing{Repo: p.repo.String(), Revision: p.repo.Revision, Commit: p.commit, Files: p.files}
	for _, f := range p.files {
		l.Bytes += f.Size
	}
	return l
}

// list shows what would be pulled.
func (p *pull) list() error {
	l := p.listing()
	t := ui.NewTable("file", "size", "checksum", "cached")
	for _, f := range p.files {
		there := cachedBytes(p.Settings.Cache, p.repo, f)
		l.Missing += f.Size - there
		state := "no"
		switch {
		case there == f.Size:
			state = "yes"
		case there > 0:
			state = fmt.Sprintf("%d%%", 100*there/f.Size)
		}
		t.Row(f.Path, ui.FormatBytes(f.Size), checksumName(f.ETag)+" "+f.ETag[:12], state)
	}
	if p.JSON {
		return p.print(l)
	}
	if err := t.Text(p.streams.Out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.streams.Out, "%s, commit %s: %d files, %s, of which %s to fetch\n",
		p.repo, p.commit, len(p.files), ui.FormatBytes(l.Bytes), ui.FormatBytes(l.Missing))
	return err
}

// result prints where the files are.
func (p *pull) result(snapshot string) error {
	folder := snapshot
	if p.Out != "" {
		var err error
		if folder, err = filepath.Abs(p.Out); err != nil {
			return err
		}
	}
	if p.JSON {
		l := p.listing()
		l.Folder = folder
		return p.print(l)
	}
	_, err := fmt.Fprintln(p.streams.Out, folder)
	return err
}

func (p *pull) print(l Listing) error {
	enc := json.NewEncoder(p.streams.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(l)
}
