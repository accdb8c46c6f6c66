//go:build unix

package hub

import "golang.org/x/sys/unix"

// diskOf tells the room that is left to this user on the disk of an existing
// folder, in bytes, and which disk it is.
func diskOf(folder string) (free int64, disk uint64, known bool) {
	var s unix.Statfs_t
	var info unix.Stat_t
	if unix.Statfs(folder, &s) != nil || unix.Stat(folder, &info) != nil {
		return 0, 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), uint64(info.Dev), true
}
