package prepare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"mlkv/internal/data/source"
	"mlkv/internal/outdir"
	"mlkv/internal/ui"
)

// work is the folder beside the output that a preparation writes into. It
// outlives an interruption; the journal in it says from where to go on.
type work struct {
	folder string
	lock   *flock.Flock
}

// openWork makes or finds the work folder of an output and locks it.
func openWork(out string) (*work, error) {
	abs, err := filepath.Abs(out)
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	w := &work{folder: workFolder(abs)}
	if err := os.MkdirAll(w.folder, 0o777); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	w.lock = flock.New(w.folder, flock.SetFlag(os.O_RDONLY))
	held, err := w.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("prepare: lock %s: %w", w.folder, err)
	}
	if !held {
		w.lock.Close()
		return nil, ui.Usagef("prepare: %s: in use: another process prepares it; wait for it or choose another name", out)
	}
	return w, nil
}

// workFolder is the name of the folder beside an output.
func workFolder(out string) string {
	return filepath.Join(filepath.Dir(out), "."+filepath.Base(out)+".prepare")
}

// close unlocks the folder.
func (w *work) close() { w.lock.Close() }

// remove removes the folder, the journal first: without the rest it would lie.
func (w *work) remove() error {
	if err := os.RemoveAll(journalPath(w.folder)); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return os.RemoveAll(w.folder)
}

// clear removes what the folder holds, the journal first.
func (w *work) clear() error {
	if err := os.RemoveAll(journalPath(w.folder)); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	entries, err := os.ReadDir(w.folder)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(w.folder, e.Name())); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	return nil
}

// journal is the state of an unfinished preparation.
type journal struct {
	Job  string `json:"job"`  // see jobOf
	Done bool   `json:"done"` // all is written but for the renaming of the folder
	progressState
	Outputs []outputState `json:"outputs"`
	Seen    int64         `json:"seen"` // hashes in the file of seenSet
}

const journalName = "journal.json"

func journalPath(folder string) string { return filepath.Join(folder, journalName) }

// jobOf writes down everything that decides what is prepared. Preparations of
// one job continue each other.
func jobOf(o Options, inputs []source.Input, tokenizerSum string) (string, error) {
	type file struct {
		Path     string
		Bytes    int64
		Modified time.Time
	}
	var files []file
	for _, in := range inputs {
		info, err := os.Stat(in.Path)
		if err != nil {
			return "", ui.Inputf("prepare: %w", err)
		}
		files = append(files, file{in.Path, in.Bytes, info.ModTime()})
	}
	o.Out, o.Force, o.Workers, o.JSON, o.Tokenizer, o.MaxBad, o.MaxDamage = "", false, 0, false, tokenizerSum, 0, 0
	b, err := json.Marshal(struct {
		Options Options
		Files   []file
	}{o, files})
	return string(b), err
}

// readJournal returns nil where there is none.
func readJournal(folder string) (*journal, error) {
	b, err := os.ReadFile(journalPath(folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var j journal
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare: unfinished work in %s cannot be read (pass --force to discard it): %w", folder, err)
	}
	return &j, nil
}

// journal returns what an earlier run of the same job left, nil after clearing
// the folder where there is nothing to go on from. With Options.Force what
// another job left is discarded, else it is an error.
func (w *work) journal(job string, o Options) (*journal, error) {
	j, err := readJournal(w.folder)
	switch {
	case err != nil && !o.Force:
		return nil, err
	case err == nil && j != nil && j.Job == job:
		return j, nil
	case err == nil && j != nil && !o.Force:
		return nil, ui.Usagef("prepare: %s holds an unfinished preparation of %s with other inputs or options; finish that one with its own, or pass --force to discard it", w.folder, o.Out)
	}
	return nil, w.clear()
}

// save writes the packing's state so that resume finds it.
func (p *packing) save(job string) error {
	j := journal{Job: job, progressState: p.progressState}
	for _, key := range p.sortedKeys() {
		s, err := p.outputs[key].save()
		if err != nil {
			return err
		}
		j.Outputs = append(j.Outputs, s)
	}
	if p.seen != nil {
		n, err := p.seen.save()
		if err != nil {
			return err
		}
		j.Seen = n
	}
	return j.write(p.folder)
}

func (j *journal) write(folder string) error {
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return outdir.WriteFile(journalPath(folder), b)
}

// resume takes the state back and removes shards that were begun after it was
// saved.
func (p *packing) resume(j *journal) error {
	p.progressState = j.progressState
	known := map[string]bool{p.folder: true, p.heldoutFolder(): true, journalPath(p.folder): true, filepath.Join(p.folder, seenName): true}
	for _, s := range j.Outputs {
		if err := p.restore(s); err != nil {
			return err
		}
		o := p.outputs[s.Key]
		for _, shard := range o.shards {
			known[filepath.Join(o.folder, shard.File)] = true
		}
		if o.writer != nil {
			known[o.writer.TempPath()] = true
		}
	}
	return filepath.WalkDir(p.folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || known[path] {
			return err
		}
		return os.RemoveAll(path)
	})
}

func (p *packing) heldoutFolder() string { return filepath.Join(p.folder, HeldoutFolder) }
