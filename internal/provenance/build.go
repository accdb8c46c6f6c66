package provenance

import (
	"runtime"
	"runtime/debug"
)

// version and commit can be set by the linker:
//
//	go build -ldflags "-X mlkv/internal/provenance.version=v1.2.3 -X mlkv/internal/provenance.commit=$(git rev-parse HEAD)"
//
// Without it the commit is what the Go toolchain stamped, if it did.
var (
	version = "devel"
	commit  string
)

// Build says which program this is.
type Build struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"` // empty where the build did not record it
	GoVersion string `json:"go"`
	Platform  string `json:"platform"` // for example "linux/amd64"
	Tags      string `json:"tags"`     // build tags, comma-separated
	CGO       bool   `json:"cgo"`
}

// ReadBuild reads what the linker and the Go toolchain stamped into the binary.
func ReadBuild() Build {
	b := Build{Version: version, Commit: commit, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		case "-tags":
			b.Tags = s.Value
		case "CGO_ENABLED":
			b.CGO = s.Value == "1"
		}
	}
	if b.Commit == "" && revision != "" {
		b.Commit = revision + dirty
	}
	return b
}
