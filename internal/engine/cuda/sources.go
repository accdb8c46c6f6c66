package cuda

import (
	"embed"
	"io/fs"
	"path"
	"strings"
)

//go:embed kernels/*.cu*
var kernelFiles embed.FS

// sources returns the text of every kernel file (.cu) and of every header
// (.cuh), by name.
func sources() (programs, headers map[string]string) {
	programs, headers = map[string]string{}, map[string]string{}
	files, err := fs.Glob(kernelFiles, "kernels/*")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for _, file := range files {
		text, err := kernelFiles.ReadFile(file)
		if err != nil {
			panic(err) // embedded
		}
		switch name := path.Base(file); {
		case strings.HasSuffix(name, ".cu"):
			programs[name] = string(text)
		case strings.HasSuffix(name, ".cuh"):
			headers[name] = string(text)
		}
	}
	return programs, headers
}
