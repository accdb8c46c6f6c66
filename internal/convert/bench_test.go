package convert

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/model"
)

// BenchmarkConvert160M converts a checkpoint of the size of Pythia-160M to six
// layers of one key/value head, in a process of its own: the time with
// everything written through to the disk, and the greatest resident memory as
// a multiple of the source's weight file.
func BenchmarkConvert160M(b *testing.B) {
	cfg, err := model.Sized("pythia-160m")
	if err != nil {
		b.Fatal(err)
	}
	for _, d := range []checkpoint.DType{checkpoint.F32, checkpoint.F16} {
		b.Run(string(d), func(b *testing.B) {
			dir := b.TempDir()
			source := filepath.Join(dir, "source")
			if err := os.Mkdir(source, 0o777); err != nil {
				b.Fatal(err)
			}
			if err := checkpoint.Write(source, cfg, fresh.New(cfg, 1), checkpoint.WriteOptions{DType: d}); err != nil {
				b.Fatal(err)
			}
			info, err := os.Stat(filepath.Join(source, "model.safetensors"))
			if err != nil {
				b.Fatal(err)
			}
			memory, took := 0.0, time.Duration(0)
			for b.Loop() {
				start := time.Now()
				memory = max(memory, float64(convertInChild(b, source, filepath.Join(dir, "out")))/float64(info.Size()))
				took = max(took, time.Since(start))
			}
			b.ReportMetric(memory, "x-memory")
			b.ReportMetric(took.Seconds(), "s-slowest")
			if memory > 1.3 {
				b.Errorf("held %.2f times the source, expected at most 1.3", memory)
			}
		})
	}
}

// convertInChild runs the test binary anew as TestConvertChild and returns its
// greatest resident memory in bytes.
func convertInChild(b *testing.B, source, out string) int64 {
	cmd := exec.Command(os.Args[0], "-test.run=^TestConvertChild$", "-test.v")
	cmd.Env = append(os.Environ(), "CONVERT_BENCH_SOURCE="+source, "CONVERT_BENCH_OUT="+out)
	text, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("child: %v\n%s", err, text)
	}
	_, after, ok := bytes.Cut(text, []byte("VmHWM:"))
	var kib int64
	if _, err := fmt.Sscan(string(after), &kib); !ok || err != nil {
		b.Skip("this system does not tell a process's greatest resident memory")
	}
	return kib << 10
}

// TestConvertChild is what BenchmarkConvert160M runs in a process of its own.
func TestConvertChild(t *testing.T) {
	source := os.Getenv("CONVERT_BENCH_SOURCE")
	if source == "" {
		t.Skip("runs only as a child of BenchmarkConvert160M")
	}
	s, _ := streams()
	o := Options{Source: source, Output: os.Getenv("CONVERT_BENCH_OUT"), Force: true, KVLayers: 6, KVHeads: 1, DType: "float32"}
	if err := Run(context.Background(), o, s); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			fmt.Print(line)
		}
	}
}
