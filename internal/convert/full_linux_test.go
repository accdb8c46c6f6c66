package convert

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mlkv/internal/checkpoint"
	"mlkv/internal/ui"
)

// TestFullDisk converts in a child process that meets a limit on the size of
// files, which reaches it as a failed write, the way a full disk does.
func TestFullDisk(t *testing.T) {
	if out := os.Getenv("CONVERT_TEST_OUT"); out != "" {
		signal.Ignore(unix.SIGXFSZ)
		limit := unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		s, _ := streams()
		err := Run(context.Background(), Options{Source: os.Getenv("CONVERT_TEST_SOURCE"), Output: out, KVHeads: 1}, s)
		if ui.ExitCode(err) != ui.ExitFailed || !strings.Contains(err.Error(), "model.safetensors") || !strings.Contains(err.Error(), "file too large") {
			t.Errorf("error %v", err)
		}
		return
	}
	out := filepath.Join(t.TempDir(), "out")
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	cmd.Env = append(os.Environ(), "CONVERT_TEST_OUT="+out, "CONVERT_TEST_SOURCE="+folder(t, small(), checkpoint.WriteOptions{}))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("child: %v\n%s", err, text)
	}
	if left := entries(t, filepath.Dir(out)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
