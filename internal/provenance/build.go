package provenance

import (
	"runtime"
	"runtime/debug"
)

// version is set by the linker:
//
//	go build -ldflags "-X mlkv/internal/provenance.version=v1.2.3"
var version = "devel"

// Build says which program this is.
type Build struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"` // empty where the build did not record it
	GoVersion string `json:"go"`
	Platform  string `json:"platform"` // for example "linux/amd64"
	Tags      string `json:"tags"`     // build tags, comma-separated
	CGO       bool   `json:"cgo"`
}

// ReadBuild reads what the Go toolchain stamped into the binary.
func ReadBuild() Build {
	b := Build{Version: version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	dirty := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		case "-tags":
			b.Tags = s.Value
		case "CGO_ENABLED":
			b.CGO = s.Value == "1"
		}
	}
	if dirty && b.Commit != "" {
		b.Commit += "-dirty"
	}
	return b
}
