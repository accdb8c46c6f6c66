package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"mlkv/internal/outdir"
	"mlkv/internal/ui"
)

// Files in an output folder.
const (
	ResultName  = "measurements.json"
	csvName     = "measurements.csv"
	journalName = "measurements.partial.jsonl" // models done, until all are
)

// output is a folder that results go to, with the models that an interrupted
// measurement left there.
type output struct {
	dir  string // empty: nothing is written
	done map[string]ModelResult
	lock *flock.Flock
	file *os.File
	// began says that the journal is this measurement's own.
	began bool
}

// head is the first line of the journal: what a measurement must have in
// common with the one that goes on with it.
type head struct {
	Measurement string `json:"measurement"`
}

// openOutput makes the folder and reads its journal.
func openOutput(o Options, d Device) (*output, error) {
	out := &output{dir: o.Output, done: map[string]ModelResult{}}
	if o.Output == "" {
		return out, nil
	}
	switch _, err := os.Stat(out.path(ResultName)); {
	case err == nil && !o.Force:
		return nil, ui.Usagef("%s: exists; choose another --out or pass --force to replace it", out.path(ResultName))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, ui.Usagef("output folder: %w", err)
	}
	if err := os.MkdirAll(o.Output, 0o777); err != nil {
		return nil, ui.Usagef("output folder: %w", err)
	}
	out.lock = flock.New(out.path(journalName))
	if held, err := out.lock.TryLock(); err != nil {
		return nil, fmt.Errorf("output folder: %w", err)
	} else if !held {
		return nil, ui.Usagef("output folder %s: in use by another measurement; wait for it or choose another folder", o.Output)
	}
	if err := out.openJournal(o, d); err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

func (o *output) path(name string) string { return filepath.Join(o.dir, name) }

// openJournal reads the models that are done, or begins a journal. A last line
// that a crash left incomplete is dropped.
func (o *output) openJournal(opt Options, d Device) error {
	first, err := json.Marshal(head{opt.identity(d)})
	if err != nil {
		return err
	}
	if o.file, err = os.OpenFile(o.path(journalName), os.O_RDWR, 0o666); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	data, err := io.ReadAll(o.file)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	line, rest, whole := bytes.Cut(data, []byte("\n"))
	if !whole || opt.Force {
		return o.restart(append(first, '\n'))
	}
	if !bytes.Equal(line, first) {
		return ui.Usagef("%s: holds models of a measurement with other models, options or device; choose another --out or pass --force to begin anew", o.path(journalName))
	}
	kept := len(line) + 1
	for n := 2; len(rest) > 0; n++ {
		var r ModelResult
		line, rest, whole = bytes.Cut(rest, []byte("\n"))
		if !whole {
			break
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return ui.Inputf("%s:%d: damaged: %w; pass --force to begin anew", o.path(journalName), n, err)
		}
		o.done[r.Name] = r
		kept += len(line) + 1
	}
	if err := o.file.Truncate(int64(kept)); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	_, err = o.file.Seek(int64(kept), io.SeekStart)
	return err
}

// restart makes the journal begin with a line.
func (o *output) restart(line []byte) error {
	if err := o.file.Truncate(0); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if _, err := o.file.WriteAt(line, 0); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	o.began = true
	_, err := o.file.Seek(int64(len(line)), io.SeekStart)
	return err
}

// identity is a checksum of all that the results depend on.
func (o Options) identity(d Device) string {
	o.Output, o.Force, o.JSON, o.Config, o.Baseline, o.Device.Warn = "", false, false, nil, "", nil
	d.Limit = 0
	text := fmt.Sprintf("%+v %+v", o, d)
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
}

// add keeps a model that is done.
func (o *output) add(r ModelResult) error {
	o.done[r.Name] = r
	if o.file == nil {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if _, err := o.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// write puts the results into the folder, the JSON last, so that its presence
// says that all is there, and removes the journal.
func (o *output) write(r *Results) error {
	if o.dir == "" {
		return nil
	}
	var table bytes.Buffer
	if err := r.csv(&table); err != nil {
		return err
	}
	if err := outdir.WriteFile(o.path(csvName), table.Bytes()); err != nil {
		return err
	}
	text, err := r.json()
	if err != nil {
		return err
	}
	if err := outdir.WriteFile(o.path(ResultName), text); err != nil {
		return err
	}
	if err := os.Remove(o.path(journalName)); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// Close lets go of the folder. A new journal without models is not worth
// keeping, nor is the folder if it was made for it.
func (o *output) Close() {
	if o.file != nil {
		o.file.Close()
		if o.began && len(o.done) == 0 {
			os.Remove(o.path(journalName))
			os.Remove(o.dir)
		}
	}
	if o.lock != nil {
		o.lock.Close()
	}
}
