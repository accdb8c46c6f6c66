package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mlkv/internal/data"
	"mlkv/internal/outdir"
	"mlkv/internal/provenance"
)

// state is state.json, the part of a checkpoint that is not tensors.
type state struct {
	Format   int           `json:"format"`       // stateFormat
	Step     int           `json:"step"`         // steps so far
	Updates  int           `json:"updates"`      // engine.Trainer.Steps
	Heldout  int           `json:"heldout_step"` // last step whose held-out loss is in the metrics, -1 for none
	Position data.Position `json:"position"`     // of the next row
	Tokens   int64         `json:"tokens"`       // trained on so far
	Elapsed  float64       `json:"elapsed"`      // seconds, pauses left out
	Busy     float64       `json:"busy"`         // seconds of Elapsed spent in steps
	Metrics  int64         `json:"metrics_bytes"`
	Schedule Schedule      `json:"schedule"`
	Identity string        `json:"identity"` // hash of the run's identity
	// Files are the checkpoint's other files, by name, with their SHA-256.
	Files map[string]string `json:"files"`
}

const (
	stateFormat = 1
	stateFile   = "state.json"
	latestFile  = "latest"
	stepPrefix  = "step-"
)

// store is the folder checkpoints/ of a run: step-N folders that appear whole,
// and the file latest, replaced last, that names the newest.
type store struct {
	dir  string
	keep int // newest checkpoints to keep; 0 keeps all
}

func stepName(step int) string { return stepPrefix + strconv.Itoa(step) }

// path is the folder of a step's checkpoint.
func (s store) path(step int) string { return filepath.Join(s.dir, stepName(step)) }

// save makes the checkpoint st.Step from the files that write puts into the
// folder it is given. st.Files is filled in. Whatever fails, checkpoints that
// existed before stay as they were.
func (s store) save(st state, write func(dir string) error) error {
	if err := s.write(st, write); err != nil {
		return fmt.Errorf("checkpoint %s: %w", s.path(st.Step), err)
	}
	return s.prune(st.Step)
}

func (s store) write(st state, write func(dir string) error) error {
	// A folder of the same name is of a crash before latest was replaced, or
	// was found damaged when the run went on.
	d, err := outdir.Create(s.path(st.Step), true)
	if err != nil {
		return err
	}
	defer d.Abort()
	if err := write(d.Path()); err != nil {
		return err
	}
	st.Format = stateFormat
	if st.Files, err = checksums(d.Path()); err != nil {
		return err
	}
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.Path(), stateFile), append(text, '\n'), 0o666); err != nil {
		return err
	}
	if err := d.Commit(); err != nil {
		return err
	}
	return outdir.WriteFile(filepath.Join(s.dir, latestFile), []byte(stepName(st.Step)+"\n"))
}

// checksums gives the SHA-256 of every file in a folder by its name.
func checksums(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for _, e := range entries {
		if sums[e.Name()], err = provenance.FileSHA256(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// prune removes all but the newest checkpoints, counted from the given step down.
func (s store) prune(newest int) error {
	if s.keep == 0 {
		return nil
	}
	steps, err := s.steps()
	if err != nil {
		return err
	}
	steps = slices.DeleteFunc(steps, func(n int) bool { return n > newest })
	for _, n := range steps[min(s.keep, len(steps)):] {
		// Under its hidden name a folder that is half removed is not taken
		// for a checkpoint.
		hidden := filepath.Join(s.dir, "."+stepName(n)+".removed")
		if err := os.Rename(s.path(n), hidden); err != nil {
			return err
		}
		if err := os.RemoveAll(hidden); err != nil {
			return err
		}
	}
	return nil
}

// clean removes what a killed process left behind.
func (s store) clean() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// steps lists the checkpoints, newest first.
func (s store) steps() ([]int, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		if digits, ok := strings.CutPrefix(e.Name(), stepPrefix); ok {
			if n, err := strconv.Atoi(digits); err == nil && stepName(n) == e.Name() {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out, nil
}

// find returns the checkpoint to go on from: the one that latest names, or the
// newest other one that is whole. Those that are not are told to warn. found
// is false where there is none at all.
func (s store) find(identity string, warn func(error)) (st state, found bool, err error) {
	steps, err := s.steps()
	if err != nil {
		return state{}, false, err
	}
	if name, err := os.ReadFile(filepath.Join(s.dir, latestFile)); err == nil {
		slices.SortStableFunc(steps, func(a, b int) int {
			latest := strings.TrimSpace(string(name))
			switch {
			case stepName(a) == latest && a != b:
				return -1
			case stepName(b) == latest && a != b:
				return 1
			}
			return 0
		})
	}
	for _, n := range steps {
		st, err := s.verify(n, identity)
		if err == nil {
			return st, true, nil
		}
		warn(fmt.Errorf("checkpoint %s is passed over: %w", s.path(n), err))
	}
	return state{}, false, nil
}

// verify reads a checkpoint's state and compares every checksum in it.
func (s store) verify(step int, identity string) (state, error) {
	path := filepath.Join(s.path(step), stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return state{}, err
	}
	var st state
	if err := json.Unmarshal(text, &st); err != nil {
		return state{}, fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case st.Format != stateFormat:
		return state{}, fmt.Errorf("%s: format: expected %d, found %d", path, stateFormat, st.Format)
	case st.Step != step:
		return state{}, fmt.Errorf("%s: step: expected %d as in the folder's name, found %d", path, step, st.Step)
	case st.Identity != identity:
		return state{}, fmt.Errorf("%s: identity: expected %s as of the run, found %s", path, identity, st.Identity)
	}
	for _, name := range slices.Sorted(maps.Keys(st.Files)) {
		file := filepath.Join(s.path(step), filepath.Base(name))
		sum, err := provenance.FileSHA256(file)
		if err != nil {
			return state{}, err
		}
		if sum != st.Files[name] {
			return state{}, fmt.Errorf("%s: checksum: expected %s, found %s", file, st.Files[name], sum)
		}
	}
	return st, nil
}
