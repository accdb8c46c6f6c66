package eval

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"mlkv/internal/engine"
	"mlkv/internal/ui"
)

// LogName is the file of finished requests in an output folder. It exists
// while an evaluation runs and after one that was interrupted.
const LogName = "requests.jsonl"

// record is what is kept of a scored request.
type record struct {
	// Parts are sums of log-likelihoods: one for a continuation, one for each
	// range of positions for held-out text.
	Parts  []float64
	Greedy bool
}

// requestKey names a request to a model on a device.
func requestKey(model string, r engine.Request) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%d\n", model, r.From)
	binary.Write(h, binary.LittleEndian, r.Tokens)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// requestLog holds finished requests, in memory and in a file to which each is
// appended at once, so that an interrupted evaluation goes on where it was.
type requestLog struct {
	done map[string]record
	path string
	file *os.File // nil: in memory only
	lock *flock.Flock
}

// memoryLog is a log without a file.
func memoryLog() *requestLog { return &requestLog{done: map[string]record{}} }

// openLog reads the log of a folder, or begins one, and locks it. What a crash
// left of a last line is dropped; a damaged line before it is an error.
func openLog(dir string) (*requestLog, error) {
	l := memoryLog()
	l.path = filepath.Join(dir, LogName)
	l.lock = flock.New(l.path)
	held, err := l.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("request log: %w", err)
	}
	if !held {
		return nil, ui.Usagef("output folder %s: in use: another evaluation is writing %s; wait for it or choose another folder", dir, LogName)
	}
	if l.file, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("request log: %w", err)
	}
	if err := l.read(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// read takes over the finished requests and leaves the file at the end of the
// last whole line.
func (l *requestLog) read() error {
	data, err := io.ReadAll(l.file)
	if err != nil {
		return fmt.Errorf("request log: %w", err)
	}
	whole := 0
	for n := 1; whole < len(data); n++ {
		line, rest, complete := bytes.Cut(data[whole:], []byte("\n"))
		key, rec, err := parseRecord(line)
		if err == nil && !complete {
			err = errors.New("no line end")
		}
		if err != nil && len(rest) > 0 {
			return ui.Inputf("%s:%d: damaged: %w; delete the file to score every request again", l.path, n, err)
		}
		if err != nil {
			break
		}
		l.done[key] = rec
		whole += len(line) + 1
	}
	if err := l.file.Truncate(int64(whole)); err != nil {
		return fmt.Errorf("request log: %w", err)
	}
	_, err = l.file.Seek(int64(whole), io.SeekStart)
	return err
}

// add keeps a finished request.
func (l *requestLog) add(key string, r record) error {
	l.done[key] = r
	if l.file == nil {
		return nil
	}
	line, err := formatRecord(key, r)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(line); err != nil {
		return fmt.Errorf("request log: %w", err)
	}
	return nil
}

// Remove deletes the log of an evaluation that is complete.
func (l *requestLog) Remove() error {
	if l.file == nil {
		return nil
	}
	if err := os.Remove(l.path); err != nil {
		return fmt.Errorf("request log: %w", err)
	}
	return nil
}

// Close lets go of the file and its lock.
func (l *requestLog) Close() {
	if l.file != nil {
		l.file.Close()
	}
	if l.lock != nil {
		l.lock.Close()
	}
}

// logLine is a record as it lies in the file. CRC is that of the line with
// CRC 0, so that a changed digit is noticed.
type logLine struct {
	Key    string    `json:"key"`
	Parts  []float64 `json:"parts"`
	Greedy bool      `json:"greedy"`
	CRC    uint32    `json:"crc"`
}

func (l logLine) checksum() (uint32, error) {
	l.CRC = 0
	text, err := json.Marshal(l)
	return crc32.ChecksumIEEE(text), err
}

func formatRecord(key string, r record) ([]byte, error) {
	l := logLine{Key: key, Parts: r.Parts, Greedy: r.Greedy}
	var err error
	if l.CRC, err = l.checksum(); err != nil {
		return nil, fmt.Errorf("request log: %w", err)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("request log: %w", err)
	}
	return append(text, '\n'), nil
}

// parseRecord reads a line, which must be to the byte what formatRecord writes.
func parseRecord(line []byte) (string, record, error) {
	var l logLine
	if err := json.Unmarshal(line, &l); err != nil {
		return "", record{}, err
	}
	rec := record{l.Parts, l.Greedy}
	want, err := formatRecord(l.Key, rec)
	if err != nil {
		return "", record{}, err
	}
	if !bytes.Equal(line, bytes.TrimSuffix(want, []byte("\n"))) {
		return "", record{}, errors.New("the line does not agree with its checksum")
	}
	return l.Key, rec, nil
}
