package data

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOpenHuge opens a set of 130e9 tokens, the size of the deduplicated Pile
// with the GPT-NeoX tokenizer, whose rows are holes in sparse files.
func TestOpenHuge(t *testing.T) {
	const shardRows, shards = 131_008, 485 // 512 MiB each
	dir := t.TempDir()
	h := Header{RowLength: 2048, Packing: Stream, VocabSize: 50277, Rows: shardRows, Tokens: shardRows * 2049}
	for i := range shards {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("shard-%05d%s", i, ShardSuffix)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(h.marshal()); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(h.fileSize()); err != nil {
			t.Skipf("the disk takes no sparse files: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	before, begun := residentMiB(t), time.Now()
	l, err := OpenLoader([]string{dir}, LoaderOptions{Shuffle: true, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range int64(1000) {
		if row := l.order.at(Position{Epoch: 3, Row: i * 63_000}); row < 0 || row >= l.Rows() {
			t.Fatalf("row %d of %d", row, l.Rows())
		}
	}
	took, memory := time.Since(begun), residentMiB(t)-before
	t.Logf("%.4g tokens in %d rows: %v, %d MiB", float64(l.Rows())*2049, l.Rows(), took, memory)
	if tokens := float64(l.Rows()) * 2049; tokens < 130e9 {
		t.Errorf("only %g tokens", tokens)
	}
	if took > 2*time.Second || memory > 200 {
		t.Errorf("opened in %v with %d MiB, want less than 2 s and 200 MiB", took, memory)
	}
}

// residentMiB is the memory that the process takes.
func residentMiB(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("VmRSS of /proc/self/status: %v", err)
	}
	return kib / 1024
}
