package source

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mlkv/internal/data"
	"mlkv/internal/ui"
)

// Options say how inputs are found and read.
type Options struct {
	// Globs choose files below a folder, such as "**/*.go"; "!" before a pattern
	// refuses what it matches.
	Globs []string
	// TextKey is the field that holds the text; "text" where empty.
	TextKey string
	// WholeRows takes rows of packed shards as they are.
	WholeRows bool
	// Tokenizer is the checksum that packed shards must have, where not empty.
	Tokenizer string
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
	{".parquet", openParquet}, {".idx", openMegatron}, {data.ShardSuffix, openPacked},
}

// kindNames lists the suffixes, for error messages.
func kindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.suffix)
	}
	return strings.Join(names, ", ")
}

// Find turns paths into inputs, in the given order. A folder of packed shards is
// one input. Any other folder stands for the files below it in the order of their names: those of a known form, or with
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
			in, ok, err := fileInput(path, info.Size(), o)
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, ui.Inputf("input %s: expected a name that ends in %s, or a folder", path, kindNames())
			}
			inputs = append(inputs, in)
			continue
		}
		if isPackedFolder(path) {
			in, err := packedInput(path, o)
			if err != nil {
				return nil, err
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

// fileInput is the input for a file whose name has a known end; ok says whether
// it has one.
func fileInput(path string, size int64, o Options) (in Input, ok bool, err error) {
	for _, k := range kinds {
		if !strings.HasSuffix(path, k.suffix) {
			continue
		}
		switch k.suffix {
		case data.ShardSuffix:
			in, err = packedInput(path, o)
			return in, true, err
		case ".idx":
			size = megatronSize(path, size)
		}
		return Input{path, size, func() (Source, error) { return k.open(path, o) }}, true, nil
	}
	return Input{}, false, nil
}

// findBelow lists a folder: data files each as an input, then all text files as
// one.
func findBelow(folder string, globs *matcher, o Options) ([]Input, error) {
	root, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return nil, ui.Inputf("input: %w", err)
	}
	w := walk{folder: folder, root: root, globs: globs, o: o}
	if err := filepath.WalkDir(root, w.visit); err != nil {
		return nil, ui.Inputf("input %s: %w", folder, err)
	}
	if len(w.texts) > 0 {
		w.inputs = append(w.inputs, Input{folder, w.textBytes, func() (Source, error) { return openTree(root, w.texts), nil }})
	}
	if len(w.inputs) == 0 {
		if len(o.Globs) > 0 {
			return nil, ui.Inputf("input %s: no file below it matches %s", folder, strings.Join(o.Globs, " "))
		}
		return nil, ui.Inputf("input %s: expected files whose names end in %s; for other text files pass --glob, for example --glob '**/*.go'", folder, kindNames())
	}
	return w.inputs, nil
}

// walk collects the files below a folder. Without globs only files of known
// forms count. Folders whose names begin with a dot are not entered.
type walk struct {
	folder, root string
	globs        *matcher
	o            Options

	inputs    []Input
	texts     []string
	textBytes int64
}

func (w *walk) visit(path string, e fs.DirEntry, err error) error {
	if err != nil && path == w.root {
		return err
	}
	rel, relErr := filepath.Rel(w.root, path)
	if relErr != nil {
		return relErr
	}
	rel = filepath.ToSlash(rel)
	if err != nil { // an unreadable folder: the tree counts it as skipped
		w.texts = append(w.texts, rel)
		return nil
	}
	if e.IsDir() {
		if rel != "." && strings.HasPrefix(e.Name(), ".") {
			return filepath.SkipDir
		}
		return nil
	}
	info, err := os.Stat(path) // follows links, of which a hub's cache consists
	if err != nil || !info.Mode().IsRegular() || !w.globs.match(rel) {
		return nil
	}
	in, ok, err := fileInput(path, info.Size(), w.o)
	if err != nil {
		return err
	}
	if ok && !strings.HasSuffix(path, ".txt") {
		in.Path = filepath.Join(w.folder, filepath.FromSlash(rel))
		w.inputs = append(w.inputs, in)
	} else if ok || len(w.o.Globs) > 0 {
		w.texts = append(w.texts, rel)
		w.textBytes += info.Size()
	}
	return nil
}
