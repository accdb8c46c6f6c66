package data

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mlkv/internal/outdir"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// ManifestName is the file that describes a folder of shards.
const ManifestName = "manifest.json"

// Manifest says what a folder of shards holds and what it was made from.
type Manifest struct {
	Format    int           `json:"format"` // 1
	RowLength int           `json:"row_length"`
	Packing   Packing       `json:"packing"`
	Tokenizer TokenizerInfo `json:"tokenizer"`
	Rows      int64         `json:"rows"`
	// Count of the documents in the shards.
	Count
	// Sets counts by pile_set_name; documents without one are under "".
	Sets    map[string]Count `json:"sets"`
	Shards  []ShardInfo      `json:"shards"`
	Sources []SourceInfo     `json:"sources"`
	Dropped Dropped          `json:"dropped"`

	Provenance *provenance.Record `json:"provenance,omitempty"`
}

// TokenizerInfo names a tokenizer.
type TokenizerInfo struct {
	Path      string `json:"path"`
	SHA256    string `json:"sha256"`
	VocabSize int    `json:"vocab_size"`
}

// Count of documents: their tokens without end-of-text tokens and the bytes of
// their text.
type Count struct {
	Documents int64 `json:"documents"`
	Tokens    int64 `json:"tokens"`
	Bytes     int64 `json:"bytes"`
}

// Add adds the counts of others.
func (c *Count) Add(o Count) {
	c.Documents += o.Documents
	c.Tokens += o.Tokens
	c.Bytes += o.Bytes
}

// ShardInfo is one shard of a manifest.
type ShardInfo struct {
	File   string `json:"file"`
	Rows   int64  `json:"rows"`
	Tokens int64  `json:"tokens"` // used tokens of all rows
	SHA256 string `json:"sha256"` // of everything behind the header
	Set    string `json:"set,omitempty"`
}

// SourceInfo is one input of a manifest.
type SourceInfo struct {
	Path    string `json:"path"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256,omitempty"` // empty where it was not read to its end
	Records int64  `json:"records"`
}

// Dropped counts the records that did not become documents, by reason.
type Dropped struct {
	Bad        int64    `json:"bad"`                // could not be read
	Damaged    int64    `json:"damaged"`            // files whose rest could not be read
	Skipped    int64    `json:"skipped"`            // files of a tree that are no text
	Filtered   int64    `json:"filtered"`           // of other sets
	Sampled    int64    `json:"sampled"`            // left out by sampling
	Duplicates int64    `json:"duplicates"`         // equal to an earlier document
	HeldOut    int64    `json:"held_out"`           // in the held-out part
	Examples   []string `json:"examples,omitempty"` // the first that were bad, damaged or skipped
}

// ReadManifest reads the manifest of a folder. Errors carry ui.ExitInput; a
// folder without one gives an error that is fs.ErrNotExist.
func ReadManifest(folder string) (*Manifest, error) {
	path := filepath.Join(folder, ManifestName)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, ui.Inputf("manifest: %w", err)
	}
	m, err := parseManifest(b)
	if err != nil {
		return nil, ui.Inputf("manifest %s: %w", path, err)
	}
	return m, nil
}

// SetNames are the keys of Sets in order.
func (m *Manifest) SetNames() []string { return sortedKeys(m.Sets) }

// Write puts the manifest into a folder.
func (m *Manifest) Write(folder string) error {
	b, err := m.JSON()
	if err != nil {
		return err
	}
	return outdir.WriteFile(filepath.Join(folder, ManifestName), b)
}

// JSON is the manifest as it is written.
func (m *Manifest) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return append(b, '\n'), nil
}

func parseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.Format != 1 {
		return nil, fmt.Errorf("format: expected 1, found %d", m.Format)
	}
	for i, s := range m.Shards {
		if s.File == "" || s.File != filepath.Base(s.File) {
			return nil, fmt.Errorf("shards[%d].file: expected a name in the same folder, found %q", i, s.File)
		}
		if _, err := parseSum(s.SHA256); err != nil {
			return nil, fmt.Errorf("shards[%d].sha256: %w", i, err)
		}
	}
	return &m, nil
}

// listShards names the shards of a folder: those of its manifest, each with
// its checksum, or all files that end in ShardSuffix where it has none.
func listShards(folder string) (paths []string, sums []string, err error) {
	m, err := ReadManifest(folder)
	if err == nil {
		for _, s := range m.Shards {
			paths = append(paths, filepath.Join(folder, s.File))
			sums = append(sums, s.SHA256)
		}
		if len(paths) == 0 {
			return nil, nil, ui.Inputf("manifest %s: shards: expected at least one", filepath.Join(folder, ManifestName))
		}
		return paths, sums, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, nil, ui.Inputf("packed shards: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() && strings.HasSuffix(e.Name(), ShardSuffix) {
			paths = append(paths, filepath.Join(folder, e.Name()))
		}
	}
	slices.Sort(paths)
	if len(paths) == 0 {
		return nil, nil, ui.Inputf("packed shards: no file below %s ends in %s; make some with mlkv prepare", folder, ShardSuffix)
	}
	return paths, make([]string, len(paths)), nil
}

// OpenShards maps all shards of files and folders, in the given order, and
// requires that they have one row length and one tokenizer. Errors carry
// ui.ExitInput.
func OpenShards(paths []string) (shards []*Shard, err error) {
	defer func() {
		if err != nil {
			closeAll(shards)
			shards = nil
		}
	}()
	for _, path := range paths {
		files, sums := []string{path}, []string{""}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			if files, sums, err = listShards(path); err != nil {
				return shards, err
			}
		}
		for i, file := range files {
			s, err := OpenShard(file)
			if err != nil {
				return shards, err
			}
			shards = append(shards, s)
			if found := hex.EncodeToString(s.Payload[:]); sums[i] != "" && found != sums[i] {
				return shards, ui.Inputf("packed shard %s: checksum: the manifest beside it says %s, the header %s; the two are of different runs", file, sums[i], found)
			}
		}
	}
	if len(shards) == 0 {
		return nil, ui.Usagef("packed shards: no file or folder given")
	}
	first := shards[0]
	for _, s := range shards[1:] {
		if s.RowLength != first.RowLength {
			return shards, ui.Inputf("packed shard %s: row length: expected %d as in %s, found %d", s.path, first.RowLength, first.path, s.RowLength)
		}
		if s.Tokenizer != first.Tokenizer {
			return shards, ui.Inputf("packed shard %s: tokenizer: expected SHA-256 %x as in %s, found %x", s.path, first.Tokenizer, first.path, s.Tokenizer)
		}
	}
	return shards, nil
}
