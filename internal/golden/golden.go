// Package golden finds the reference results that tests compare with. They lie
// beside the repository, in the folder that MLKV_GOLDEN names or in
// ../shared/golden; a test that needs them skips where there are none.
package golden

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Shared is a path below the shared folder beside the repository.
func Shared(parts ...string) string {
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "..", "..", "..", "shared")
	return filepath.Join(append([]string{root}, parts...)...)
}

// Root is the folder of golden results.
func Root() string {
	if dir := os.Getenv("MLKV_GOLDEN"); dir != "" {
		return dir
	}
	return Shared("golden")
}

// Find lists the files in the golden folder that match a pattern such as
// "*/reference.safetensors", and skips the test where there are none.
func Find(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(Root(), pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skipf("no %s in %s: golden results are shared data beside the repository", pattern, Root())
	}
	return found
}

// File is a path below the shared folder; the test skips where it is absent.
func File(t testing.TB, parts ...string) string {
	t.Helper()
	path := Shared(parts...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not there: it is shared data beside the repository", path)
	}
	return path
}
