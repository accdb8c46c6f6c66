//go:build unix

package prepare

import (
	"os/signal"
	"testing"

	"golang.org/x/sys/unix"
)

// limitFiles makes writes beyond a file size fail, as they do on a full disk.
func limitFiles(t *testing.T, size uint64) {
	t.Helper()
	signal.Ignore(unix.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: size}); err != nil {
		t.Fatal(err)
	}
}
