package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"mlkv/internal/ui"
)

// openShards opens every file that an index names and checks that each holds
// what the index says.
func openShards(index string, open func(string) (*File, error)) ([]*File, error) {
	data, err := os.ReadFile(index)
	if err != nil {
		return nil, ui.Inputf("%s: %w", index, unwrapPath(err))
	}
	byTensor, err := parseIndex(data)
	if err != nil {
		return nil, ui.Inputf("%s: %w", index, err)
	}
	files, err := openAll(filepath.Dir(index), slices.Compact(slices.Sorted(maps.Values(byTensor))), open)
	if err == nil {
		err = checkShards(index, byTensor, files)
	}
	if err != nil {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return nil, err
	}
	return files, nil
}

// parseIndex reads the weight_map of an index.json: the file of each tensor, by
// a name within the same folder.
func parseIndex(data []byte) (map[string]string, error) {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("expected a JSON object with weight_map: %w", err)
	}
	if len(index.WeightMap) == 0 {
		return nil, errors.New("weight_map: expected the file of each tensor, found none")
	}
	for _, tensor := range slices.Sorted(maps.Keys(index.WeightMap)) {
		file := index.WeightMap[tensor]
		if file != filepath.Base(file) || !filepath.IsLocal(file) || file == "." {
			return nil, fmt.Errorf("weight_map: tensor %s: expected the name of a file in the same folder, found %q", tensor, file)
		}
	}
	return index.WeightMap, nil
}

func openAll(dir string, names []string, open func(string) (*File, error)) ([]*File, error) {
	var files []*File
	for _, name := range names {
		f, err := open(filepath.Join(dir, name))
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// checkShards holds the files against the index.
func checkShards(index string, byTensor map[string]string, files []*File) error {
	found := map[string]string{}
	for _, f := range files {
		for _, name := range f.Names() {
			base := filepath.Base(f.path)
			if byTensor[name] != base {
				return ui.Inputf("%s: tensor %s: expected it in %q as weight_map says, found it in %q", index, name, byTensor[name], base)
			}
			found[name] = base
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byTensor)) {
		if found[name] == "" {
			return ui.Inputf("%s: tensor %s: expected it in %q as weight_map says, found none", index, name, byTensor[name])
		}
	}
	return nil
}
