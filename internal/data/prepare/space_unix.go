//go:build unix

package prepare

import "golang.org/x/sys/unix"

// freeBytes is the room that is left on the disk of a folder.
func freeBytes(folder string) (int64, bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(folder, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
