package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"mlkv/internal/outdir"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// Names in a run folder.
const (
	configFile     = "config.yaml"   // the resolved configuration
	runFile        = "run.json"      // runRecord; a folder without it is no run
	metricsFile    = "metrics.jsonl" // one Metric a line
	eventsDir      = "tensorboard"   // event files
	checkpointsDir = "checkpoints"   // store
	modelDir       = "model"         // the trained model, a Hugging Face folder
	resultFile     = "result.json"   // Result; written last, so a run that has it is finished
	nanPattern     = "nan-step-*.json"
)

// runNames are what a run folder may hold.
var runNames = []string{runFile, configFile, metricsFile, eventsDir, checkpointsDir, modelDir, resultFile, nanPattern}

// runRecord is run.json.
type runRecord struct {
	*provenance.Record
	Identity identity     `json:"identity"`
	Resumed  []resumption `json:"resumed,omitempty"`
}

// resumption is one process that went on with the run.
type resumption struct {
	Step    int       `json:"step"`
	Device  string    `json:"device"`
	Version string    `json:"version"`
	Commit  string    `json:"commit,omitempty"`
	Time    time.Time `json:"time"`
}

// folder is a run folder.
type folder struct {
	path string
	lock *flock.Flock // nil where the folder is only looked at
}

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

// openFolder makes the folder where it does not exist and locks it against
// other processes.
func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, ui.Usagef("run folder %s: %w", path, err)
	}
	lock := flock.New(path, flock.SetFlag(os.O_RDONLY))
	held, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("run folder %s: lock: %w", path, err)
	}
	if !held {
		lock.Close()
		return nil, ui.Usagef("run folder %s: in use: another process trains in it; wait for it or choose another folder with --out", path)
	}
	return &folder{path, lock}, nil
}

// close gives the folder free, and removes it where nothing was written.
func (f *folder) close() {
	os.Remove(f.path)
	f.lock.Close()
}

// mode is how a command meets a run folder.
type mode struct{ resume, force bool }

// inspect reads what the folder holds. It returns the run to go on with, nil
// where a new one may begin, and an error of kind ui.Usagef where neither may
// be done.
func (f *folder) inspect(id identity, m mode) (*runRecord, error) {
	entries, err := os.ReadDir(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, ui.Usagef("run folder: %w", err)
	}
	if m.force {
		return nil, nil
	}
	text, err := os.ReadFile(f.file(runFile))
	if errors.Is(err, fs.ErrNotExist) {
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(runNames, e.Name()) {
				return nil, ui.Usagef("run folder %s: expected an empty folder or a run, found %s; choose another folder with --out", f.path, e.Name())
			}
		}
		if m.resume {
			return nil, ui.Usagef("run folder %s: --resume expects an unfinished run, found no %s; leave --resume out to begin one", f.path, runFile)
		}
		return nil, nil
	}
	if err != nil {
		return nil, ui.Usagef("run folder: %w", err)
	}
	if _, err := os.Stat(f.file(resultFile)); err == nil {
		return nil, ui.Usagef("run folder %s: holds a finished run; choose another folder with --out, or pass --force to begin anew", f.path)
	}
	run := &runRecord{}
	if err := json.Unmarshal(text, run); err != nil {
		return nil, ui.Usagef("%s: not the record of a run: %w; pass --force to begin anew", f.file(runFile), err)
	}
	if d := id.differences(run.Identity); d != "" {
		return nil, ui.Usagef("run folder %s: holds an unfinished run of another configuration: %s; give the same values to go on with it, choose another folder with --out, or pass --force to begin anew", f.path, d)
	}
	return run, nil
}

// clear removes a former run. run.json goes first: without it the folder is no
// run, whatever else is left.
func (f *folder) clear() error {
	for _, name := range runNames {
		paths, err := filepath.Glob(filepath.Join(globEscape(f.path), name))
		if err != nil {
			return err
		}
		for _, p := range paths {
			if err := os.RemoveAll(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// globEscape makes a path stand for itself in filepath.Glob.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// write stores a value as an indented JSON file that appears at once.
func (f *folder) write(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", f.file(name), err)
	}
	return outdir.WriteFile(f.file(name), append(text, '\n'))
}
