package eval

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/ui"
)

// fillLog writes n records and returns the file's content.
func fillLog(t *testing.T, dir string, n int) []byte {
	t.Helper()
	l, err := openLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range n {
		if err := l.add(fmt.Sprintf("key%d", i), record{[]float64{-1.5 - float64(i)/3, 0}, i%2 == 0}); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Cut at any byte, the log gives back every whole line, and goes on from there.
func TestLogCutAnywhere(t *testing.T) {
	whole := fillLog(t, t.TempDir(), 5)
	for cut := range len(whole) + 1 {
		dir := writeFiles(t, map[string]string{LogName: string(whole[:cut])})
		l, err := openLog(dir)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		want := bytes.Count(whole[:cut], []byte("\n"))
		if len(l.done) != want {
			t.Errorf("cut at %d: %d records, want %d", cut, len(l.done), want)
		}
		for i := want; i < 5; i++ {
			if err := l.add(fmt.Sprintf("key%d", i), record{[]float64{-1.5 - float64(i)/3, 0}, i%2 == 0}); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
		if got, _ := os.ReadFile(l.path); !bytes.Equal(got, whole) {
			t.Fatalf("cut at %d and filled again:\n%s\nwant\n%s", cut, got, whole)
		}
	}
}

// One changed byte is noticed anywhere: in the last line as a torn end, in any
// other as damage.
func TestLogDamage(t *testing.T) {
	whole := fillLog(t, t.TempDir(), 4)
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	for at := range len(whole) - 1 {
		damaged := slices.Clone(whole)
		damaged[at] ^= 1
		if at == last-1 {
			continue // two lines become one torn end
		}
		l, err := openLog(writeFiles(t, map[string]string{LogName: string(damaged)}))
		if at < last {
			if ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), LogName+":") || !strings.Contains(err.Error(), "delete the file") {
				t.Errorf("byte %d changed: %v", at, err)
			}
			continue
		}
		if err != nil || len(l.done) != 3 {
			t.Errorf("byte %d of the last line changed: error %v", at, err)
			continue
		}
		l.Close()
	}
}

func TestLogIsLocked(t *testing.T) {
	dir := t.TempDir()
	l, err := openLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(dir); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second opening: %v", err)
	}
	l.Close()
	if l, err = openLog(dir); err != nil {
		t.Errorf("after closing: %v", err)
	} else {
		l.Close()
	}
}

func TestLogOnFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	l := memoryLog()
	l.file = full
	defer l.Close()
	if err := l.add("key", record{[]float64{-1}, true}); err == nil || !strings.Contains(err.Error(), "request log") {
		t.Errorf("writing to a full disk: %v", err)
	}
}

func TestRequestKey(t *testing.T) {
	r := engine.Request{Tokens: []int32{1, 2, 3}, From: 1}
	keys := map[string]bool{
		requestKey("a", r): true, requestKey("b", r): true,
		requestKey("a", engine.Request{Tokens: []int32{1, 2, 3}, From: 2}): true,
		requestKey("a", engine.Request{Tokens: []int32{1, 2, 4}, From: 1}): true,
	}
	if len(keys) != 4 || !keys[requestKey("a", engine.Request{Tokens: []int32{1, 2, 3}, From: 1})] {
		t.Errorf("keys %v", slices.Collect(maps.Keys(keys)))
	}
}

func FuzzLog(f *testing.F) {
	line, err := formatRecord("k", record{[]float64{-1.25}, true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(slices.Clone(line), line...))
	f.Add([]byte("{}\n{}\n"))
	f.Add([]byte(`{"key":"k","parts":[1e999]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := writeFiles(t, map[string]string{LogName: string(data)})
		l, err := openLog(dir)
		if err != nil {
			return
		}
		done := maps.Clone(l.done)
		if err := l.add("next", record{[]float64{-2}, false}); err != nil {
			t.Fatal(err)
		}
		l.Close()
		again, err := openLog(dir)
		if err != nil {
			t.Fatalf("a log that was read cannot be read again: %v", err)
		}
		defer again.Close()
		done["next"] = record{[]float64{-2}, false}
		if len(again.done) != len(done) {
			t.Fatalf("%d records, want %d", len(again.done), len(done))
		}
	})
}
