// Package provenance records what produced a result: the program, the command
// line, the configuration, the seeds and the checksums of what was read, so
// that a run folder or a result file says how it can be made again.
package provenance

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// Record is the content of run.json and of the provenance section in result
// files.
type Record struct {
	Command   []string          `json:"command"` // the command line, program first
	Version   string            `json:"version"`
	Commit    string            `json:"commit,omitempty"` // "-dirty" at the end: with local changes
	GoVersion string            `json:"go_version"`
	Device    string            `json:"device,omitempty"` // what the engine ran on
	Threads   int               `json:"threads,omitempty"`
	Config    any               `json:"config,omitempty"`
	Seeds     map[string]int64  `json:"seeds,omitempty"`
	Inputs    map[string]string `json:"inputs,omitempty"` // path to SHA-256, hexadecimal
	Started   time.Time         `json:"started"`
	Finished  time.Time         `json:"finished,omitzero"`
}

// New begins a record of the running process under the given configuration.
func New(config any) *Record {
	b := ReadBuild()
	return &Record{
		Command: os.Args, Version: b.Version, Commit: b.Commit, GoVersion: b.GoVersion,
		Config: config, Started: time.Now().UTC().Truncate(time.Second),
	}
}

// Seed records a seed by what it was used for.
func (r *Record) Seed(name string, seed int64) {
	if r.Seeds == nil {
		r.Seeds = map[string]int64{}
	}
	r.Seeds[name] = seed
}

// Input records the checksum of something that was read.
func (r *Record) Input(path, sum string) {
	if r.Inputs == nil {
		r.Inputs = map[string]string{}
	}
	r.Inputs[path] = sum
}

// InputFile computes and records the checksum of a file.
func (r *Record) InputFile(path string) error {
	sum, err := FileSHA256(path)
	if err != nil {
		return err
	}
	r.Input(path, sum)
	return nil
}

// Finish records the time at which the work ended.
func (r *Record) Finish() { r.Finished = time.Now().UTC().Truncate(time.Second) }

// JSON writes the record as an indented object, with a newline at its end.
func (r *Record) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return append(b, '\n'), nil
}

// FileSHA256 is the SHA-256 of a file's content in hexadecimal.
func FileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("checksum of %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
