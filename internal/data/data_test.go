package data

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/ui"
)

const testLength = 8

// writeShard writes a shard of rows whose first token tells them apart.
func writeShard(t testing.TB, path string, h Header, rows [][]uint16) {
	t.Helper()
	w, err := NewWriter(path, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if err := w.WriteRow(row); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
}

func testHeader() Header {
	return Header{RowLength: testLength, Packing: Stream, VocabSize: 1000, Tokenizer: [32]byte{1, 2, 3}}
}

// numbered makes rows of several lengths; row i begins with from+i.
func numbered(from, n int) [][]uint16 {
	rows := make([][]uint16, n)
	for i := range rows {
		rows[i] = make([]uint16, 1+i%(testLength+1))
		rows[i][0] = uint16(from + i)
	}
	return rows
}

func TestShardRoundTrip(t *testing.T) {
	for _, length := range []int{1, 2, 7, 8, 2048} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a"+ShardSuffix)
			h := testHeader()
			h.RowLength, h.Set = length, "Pile-CC"
			r := rand.New(rand.NewPCG(1, 2))
			var rows [][]uint16
			for range 13 {
				row := make([]uint16, 1+r.IntN(length+1))
				for k := range row {
					row[k] = uint16(r.IntN(h.VocabSize))
				}
				rows = append(rows, row)
			}
			writeShard(t, path, h, rows)
			s, err := OpenShard(path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.Rows != 13 || s.Set != h.Set || s.Header.Tokenizer != h.Tokenizer || s.RowLength != length {
				t.Errorf("header %+v, want 13 rows of %+v", s.Header, h)
			}
			for i, want := range rows {
				if got, err := s.Row(int64(i)); err != nil || !slices.Equal(got, want) {
					t.Errorf("row %d: %v, %v; want %v", i, got, err, want)
				}
			}
			if err := s.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestResumeWriter(t *testing.T) {
	dir := t.TempDir()
	rows := numbered(0, 50)
	whole := filepath.Join(dir, "whole")
	writeShard(t, whole, testHeader(), rows)
	path := filepath.Join(dir, "resumed")
	w, err := NewWriter(path, testHeader())
	if err != nil {
		t.Fatal(err)
	}
	var state WriterState
	for i, row := range rows[:30] {
		if i == 20 {
			if state, err = w.Save(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.WriteRow(row); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Save(); err != nil { // rows 20 to 29 reach the file and are cut off again
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = ResumeWriter(path, testHeader(), state); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[20:] {
		if err := w.WriteRow(row); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(whole)
	b, _ := os.ReadFile(path)
	if !slices.Equal(a, b) {
		t.Error("the resumed shard differs from the one written in one go")
	}
}

// TestOpenRefuses damages a shard in every field.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	writeShard(t, good, testHeader(), numbered(0, 5))
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for _, c := range []struct {
		name, message string
		change        func(b []byte) []byte
		keepSum       bool
	}{
		{"empty", "found a file of 0", func(b []byte) []byte { return nil }, true},
		{"short", "found a file of 100", func(b []byte) []byte { return b[:100] }, true},
		{"magic", "not a packed shard", func(b []byte) []byte { b[0] = 'X'; return b }, false},
		{"version", "version: expected 1, found 9", func(b []byte) []byte { le.PutUint32(b[8:], 9); return b }, false},
		{"header", "header is damaged", func(b []byte) []byte { b[50]++; return b }, true},
		{"row length", "row length", func(b []byte) []byte { le.PutUint32(b[16:], 0); return b }, false},
		{"packing", "packing", func(b []byte) []byte { le.PutUint32(b[20:], 7); return b }, false},
		{"rows", "size: expected", func(b []byte) []byte { le.PutUint64(b[24:], 6); return b }, false},
		{"many rows", "size: expected", func(b []byte) []byte { le.PutUint64(b[24:], 1<<62); return b }, false},
		{"no rows", "rows: expected at least 1", func(b []byte) []byte { le.PutUint64(b[24:], 0); return b }, false},
		{"tokens", "tokens: expected", func(b []byte) []byte { le.PutUint64(b[32:], 1<<40); return b }, false},
		{"vocabulary", "vocabulary", func(b []byte) []byte { le.PutUint32(b[40:], 1<<17); return b }, false},
		{"cut", "size: expected", func(b []byte) []byte { return b[:len(b)-1] }, true},
		{"longer", "size: expected", func(b []byte) []byte { return append(b, 0) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.change(slices.Clone(data))
			if !c.keepSum {
				le.PutUint32(b[headerSize-4:], crc32.ChecksumIEEE(b[:headerSize-4]))
			}
			checkRefused(t, b, c.message, func(s *Shard) error { return nil })
		})
	}
	t.Run("missing", func(t *testing.T) {
		if _, err := OpenShard(filepath.Join(dir, "none")); ui.ExitCode(err) != ui.ExitInput {
			t.Errorf("error %v, want exit code %d", err, ui.ExitInput)
		}
	})
}

// TestCheckRefuses damages what Check reads.
func TestCheckRefuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	writeShard(t, good, testHeader(), numbered(0, 5))
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	h, err := unmarshalHeader(data, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for _, c := range []struct {
		name, message string
		change        func(b []byte)
	}{
		{"token", "row 1, token 1: expected an id below 1000, found 1001", func(b []byte) { le.PutUint16(b[headerSize+18+2:], 1001) }},
		{"bit", "file is damaged", func(b []byte) { b[headerSize] ^= 2 }},
		{"padding", "row 0, token 5: expected 1 behind", func(b []byte) { le.PutUint16(b[headerSize+10:], 5) }},
		{"length 0", "row 2: length: expected 1 to 9, found 0", func(b []byte) { le.PutUint32(b[h.indexAt()+8:], 0) }},
		{"length 10", "row 2: length: expected 1 to 9, found 10", func(b []byte) { le.PutUint32(b[h.indexAt()+8:], 10) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := slices.Clone(data)
			c.change(b)
			checkRefused(t, b, c.message, (*Shard).Check)
		})
	}
}

func checkRefused(t *testing.T, b []byte, message string, then func(*Shard) error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bad"+ShardSuffix)
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	s, err := OpenShard(path)
	if err == nil {
		err = then(s)
		s.Close()
	}
	if ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), message) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v (exit code %d), want code %d, the path and %q", err, ui.ExitCode(err), ui.ExitInput, message)
	}
}

func TestWriterLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(filepath.Join(dir, "a"), testHeader())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); err == nil {
		t.Error("a shard without rows was finished")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func FuzzShardHeader(f *testing.F) {
	h := testHeader()
	h.Rows, h.Tokens = 2, 5
	f.Add(h.marshal(), h.fileSize())
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if len(b) >= headerSize { // so that changed fields are reached
			binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.ChecksumIEEE(b[:headerSize-4]))
		}
		h, err := unmarshalHeader(b, size)
		if err != nil {
			return
		}
		if h.fileSize() != size || h.indexAt() < headerSize || h.indexAt() > size {
			t.Fatalf("accepted %+v for a file of %d bytes", h, size)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"packing":"stream","shards":[{"file":"a.rows","sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			return
		}
		for _, s := range m.Shards {
			if strings.ContainsAny(s.File, "/") {
				t.Fatalf("accepted shard %q outside the folder", s.File)
			}
		}
	})
}

func TestOpenShardsRefuses(t *testing.T) {
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a"+ShardSuffix), filepath.Join(dir, "b"+ShardSuffix), filepath.Join(dir, "c"+ShardSuffix)
	writeShard(t, a, testHeader(), numbered(0, 3))
	h := testHeader()
	h.Tokenizer[0]++
	writeShard(t, b, h, numbered(0, 3))
	h = testHeader()
	h.RowLength = 9
	writeShard(t, c, h, numbered(0, 3))
	empty := t.TempDir()
	for _, x := range []struct {
		paths   []string
		message string
	}{
		{[]string{a, b}, "tokenizer: expected"},
		{[]string{a, c}, "row length: expected 8"},
		{[]string{empty}, "no file below"},
		{[]string{a, filepath.Join(dir, "none")}, "none"},
	} {
		_, err := OpenShards(x.paths)
		if ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), x.message) {
			t.Errorf("%v: error %v, want exit code %d and %q", x.paths, err, ui.ExitInput, x.message)
		}
	}
	s, err := OpenShard(a)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.CheckTokenizer(strings.Repeat("ab", 32)); ui.ExitCode(err) != ui.ExitInput {
		t.Errorf("another tokenizer: %v", err)
	}
	if _, err := OpenShards(nil); ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("no paths: %v", err)
	}
}
