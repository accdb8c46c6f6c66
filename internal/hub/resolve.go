package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mlkv/internal/ui"
)

// Resolve turns the name of a checkpoint into a folder: an existing path is
// returned as it is, and so is one that cannot be a hub's name; a hub's name or
// a short name becomes its snapshot in the cache. Where that is missing or not
// complete, the error says which command fetches it and carries ui.ExitInput.
func Resolve(nameOrPath string) (folder string, err error) {
	return resolve(nameOrPath, checkModel)
}

// ResolveTokenizer is Resolve where only the tokenizer is needed.
func ResolveTokenizer(nameOrPath string) (folder string, err error) {
	return resolve(nameOrPath, func(folder string) error { return needs(folder, "tokenizer.json") })
}

func resolve(name string, check func(folder string) error) (string, error) {
	repo, ok := hubName(name)
	if !ok {
		return name, nil
	}
	s, err := Environment(os.Getenv)
	if err != nil {
		return "", err
	}
	_, folder, err := snapshotOf(s.Cache, repo)
	if err == nil {
		err = check(folder)
	}
	if err != nil {
		return "", ui.Inputf("%s: no such folder here, and as a %s of the hub: %w; %s", name, repo.Kind.noun(), err, howTo(name))
	}
	return folder, nil
}

// hubName reads a name that no file has, where it can only be a hub's.
func hubName(name string) (Repo, bool) {
	if _, err := os.Lstat(name); err == nil {
		return Repo{}, false
	}
	id, _, _ := strings.Cut(name, "@")
	if _, short := shortNames[id]; !short && !strings.Contains(id, "/") {
		return Repo{}, false
	}
	repo, err := ParseRepo(name)
	return repo, err == nil
}

// howTo names the command that fetches a model. What ends in a short name is
// likely meant as a folder.
func howTo(name string) string {
	base := name[strings.LastIndexByte(name, '/')+1:]
	if _, short := shortNames[base]; short && base != name && !strings.HasPrefix(name, "EleutherAI/") {
		return fmt.Sprintf("fetch it with: mlkv pull %s --out %s", base, name)
	}
	return "fetch it with: mlkv pull " + name
}

// checkModel says what a folder lacks to be loaded as a model.
func checkModel(folder string) error {
	if err := needs(folder, "config.json"); err != nil {
		return err
	}
	for _, weights := range []string{"model.safetensors", "pytorch_model.bin"} {
		if exists(filepath.Join(folder, weights)) {
			return nil
		}
		index := filepath.Join(folder, weights+".index.json")
		if exists(index) {
			return checkShards(folder, index)
		}
	}
	return errors.New("its snapshot holds no model.safetensors or pytorch_model.bin")
}

// checkShards says which of the files that an index names is missing.
func checkShards(folder, index string) error {
	data, err := os.ReadFile(index)
	if err != nil {
		return err
	}
	var list struct {
		Files map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("%s: %w", index, err)
	}
	for _, file := range list.Files {
		if err := needs(folder, file); err != nil {
			return err
		}
	}
	return nil
}

// needs says that a file is missing from a snapshot. A link without its blob
// counts as missing.
func needs(folder, file string) error {
	if !filepath.IsLocal(file) || !exists(filepath.Join(folder, file)) {
		return fmt.Errorf("its snapshot holds no %s", file)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
