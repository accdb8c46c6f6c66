package hub

import (
	"os"
	"path/filepath"

	"mlkv/internal/ui"
)

// checkSpace refuses to begin where a disk cannot hold what is missing: need
// bytes below cache, and copies bytes below out.
func checkSpace(cache string, need int64, out string, copies int64) error {
	free, disk, known := diskOf(existing(cache))
	freeOut, diskOut, knownOut := diskOf(existing(out))
	if known && knownOut && disk == diskOut {
		need, copies = need+copies, 0
	}
	const advice = "; free some, pull fewer files, or choose another disk (HF_HUB_CACHE)"
	if known && need > free {
		return ui.Usagef("disk of %s: expected %s free for what is missing, found %s"+advice, cache, ui.FormatBytes(need), ui.FormatBytes(free))
	}
	if knownOut && copies > freeOut {
		return ui.Usagef("disk of %s: expected %s free for the copies, found %s; --link makes none on the cache's own disk", out, ui.FormatBytes(copies), ui.FormatBytes(freeOut))
	}
	return nil
}

// existing is the nearest folder at or above path that exists.
func existing(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}
