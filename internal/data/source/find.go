package source

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mlkv/internal/ui"
)

// Options say how inputs are found and read.
type Options struct {
	// Globs choose files below a folder, such as "**/*.go"; "!" before a pattern
	// refuses what it matches.
	Globs []string
	// TextKey is the field that holds the text; "text" where empty.
	TextKey string
}

// Input is a file, or the text files of a folder, that can be opened.
type Input struct {
	Path string
	// Bytes on disk.
	Bytes int64

	open func() (Source, error)
}

// Open begins to read the input. An error is a *Damage.
func (in Input) Open() (Source, error) { return in.open() }

// kinds are the forms of files by the end of their names.
var kinds = []struct {
	suffix string
	open   func(path string, o Options) (Source, error)
}{
	{".jsonl", openLines}, {".jsonl.zst", openLines}, {".jsonl.gz", openLines},
	{".txt", openText}, {".txt.zst", openText}, {".txt.gz", openText},
}

// kindNames lists the suffixes, for error messages.
func kindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.suffix)
	}
	return strings.Join(names, ", ")
}

// Find turns paths into inputs, in the given order. A folder stands for the
// files below it in the order of their names: those of a known form, or with
// Globs those that match, where a file of another form is taken for a text.
// Errors carry ui.ExitInput or ui.ExitUsage.
func Find(paths []string, o Options) ([]Input, error) {
	if o.TextKey == "" {
		o.TextKey = "text"
	}
	globs, err := newMatcher(o.Globs)
	if err != nil {
		return nil, ui.Usagef("%w", err)
	}
	var inputs []Input
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, ui.Inputf("input: %w", err)
		}
		if !info.IsDir() {
			in, ok := fileInput(path, info.Size(), o)
			if !ok {
				return nil, ui.Inputf("input %s: expected a name that ends in %s, or a folder", path, kindNames())
			}
			inputs = append(inputs, in)
			continue
		}
		found, err := findBelow(path, globs, o)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, found...)
	}
	if len(inputs) == 0 {
		return nil, ui.Usagef("input: no file given")
	}
	return inputs, nil
}

// fileInput is the input for a file whose name has a known end.
func fileInput(path string, size int64, o Options) (Input, bool) {
	for _, k := range kinds {
		if strings.HasSuffix(path, k.suffix) {
			return Input{path, size, func() (Source, error) { return k.open(path, o) }}, true
		}
	}
	return Input{}, false
}

// findBelow lists a folder: data files each as an input, then all text files as
// one. Without globs only files of known forms count. Folders whose names begin
// with a dot are not entered.
func findBelow(folder string, globs *matcher, o Options) ([]Input, error) {
	root, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return nil, ui.Inputf("input: %w", err)
	}
	var inputs []Input
	var texts []string
	var textBytes int64
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil && path == root {
			return err
		}
		rel, relErr := filepath.Rel(root, path)
		if relErr != nil {
			return relErr
		}
		rel = filepath.ToSlash(rel)
		if err != nil { // an unreadable folder: the tree counts it as skipped
			texts = append(texts, rel)
			return nil
		}
		if e.IsDir() {
			if rel != "." && strings.HasPrefix(e.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := os.Stat(path) // follows links, of which a hub's cache consists
		if err != nil || !info.Mode().IsRegular() || !globs.match(rel) {
			return nil
		}
		size := info.Size()
		if in, ok := fileInput(path, size, o); ok && !strings.HasSuffix(path, ".txt") {
			in.Path = filepath.Join(folder, filepath.FromSlash(rel))
			inputs = append(inputs, in)
		} else if ok || len(o.Globs) > 0 {
			texts = append(texts, rel)
			textBytes += size
		}
		return nil
	})
	if err != nil {
		return nil, ui.Inputf("input %s: %w", folder, err)
	}
	if len(texts) > 0 {
		inputs = append(inputs, Input{folder, textBytes, func() (Source, error) { return openTree(root, texts), nil }})
	}
	if len(inputs) == 0 {
		if len(o.Globs) > 0 {
			return nil, ui.Inputf("input %s: no file below it matches %s", folder, strings.Join(o.Globs, " "))
		}
		return nil, ui.Inputf("input %s: expected files whose names end in %s; for other text files pass --glob, for example --glob '**/*.go'", folder, kindNames())
	}
	return inputs, nil
}
