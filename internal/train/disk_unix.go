//go:build unix

package train

import "golang.org/x/sys/unix"

// diskFree is the space that is free for this user on the file system of path,
// in bytes.
func diskFree(path string) (free int64, known bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
