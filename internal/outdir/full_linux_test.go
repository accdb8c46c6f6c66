package outdir

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFullDisk lets a child process meet a limit on the size of files, which
// reaches it as a failed write, the way a full disk does.
func TestFullDisk(t *testing.T) {
	if final := os.Getenv("OUTDIR_TEST_FULL"); final != "" {
		signal.Ignore(unix.SIGXFSZ)
		d, err := Create(final, false)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Abort()
		limit := unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.Path()+"/x", make([]byte, 1<<17), 0o666); err == nil {
			t.Fatal("the write succeeded")
		}
		if err := WriteFile(filepath.Dir(final)+"/file", make([]byte, 1<<17)); err == nil || !strings.Contains(err.Error(), "file") {
			t.Fatalf("WriteFile = %v, expected an error that names the file", err)
		}
		return
	}
	final := filepath.Join(t.TempDir(), "out")
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	cmd.Env = append(os.Environ(), "OUTDIR_TEST_FULL="+final)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	if got := names(t, filepath.Dir(final)); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}
