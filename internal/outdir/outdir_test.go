package outdir

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"mlkv/internal/ui"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestCommitShowsTheFolderAtOnce(t *testing.T) {
	parent := t.TempDir()
	final := filepath.Join(parent, "a", "b")
	d, err := Create(final, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	write(t, filepath.Join(d.Path(), "sub", "x"), "1")
	if _, err := os.Stat(final); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("before Commit: Stat(final) = %v, expected not to exist", err)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(final, "sub", "x")); got != "1" {
		t.Errorf("x = %q, expected 1", got)
	}
	if got := names(t, filepath.Join(parent, "a")); !slices.Equal(got, []string{"b"}) {
		t.Errorf("beside the folder: %v, expected only b", got)
	}
	if err := d.Commit(); err == nil {
		t.Error("a second Commit succeeded")
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	d, err := Create(filepath.Join(parent, "b"), false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.Path(), "x"), "1")
	d.Abort()
	d.Abort()
	if got := names(t, parent); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestExistingOutput(t *testing.T) {
	for _, c := range []struct {
		name  string
		make  func(t *testing.T, path string)
		force bool
		want  string // part of the usage error; "" succeeds
	}{
		{"empty folder", func(t *testing.T, p string) { os.Mkdir(p, 0o777) }, false, ""},
		{"used folder", func(t *testing.T, p string) { write(t, p+"/old", "old") }, false, "found 1 entries"},
		{"used folder, force", func(t *testing.T, p string) { write(t, p+"/old", "old") }, true, ""},
		{"file", func(t *testing.T, p string) { write(t, p, "old") }, false, "found a file"},
		{"file, force", func(t *testing.T, p string) { write(t, p, "old") }, true, "found a file"},
		{"parent is a file", func(t *testing.T, p string) { write(t, filepath.Dir(p), "old") }, false, "not a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			final := filepath.Join(t.TempDir(), "p", "out")
			if c.name != "parent is a file" {
				os.Mkdir(filepath.Dir(final), 0o777)
			}
			c.make(t, final)
			d, err := Create(final, c.force)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || ui.ExitCode(err) != ui.ExitUsage {
					t.Fatalf("Create: %v (exit code %d), expected a usage error with %q", err, ui.ExitCode(err), c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(d.Path(), "new"), "new")
			if err := d.Commit(); err != nil {
				t.Fatal(err)
			}
			if got := names(t, final); !slices.Equal(got, []string{"new"}) {
				t.Errorf("folder holds %v, expected new", got)
			}
			if got := names(t, filepath.Dir(final)); !slices.Equal(got, []string{"out"}) {
				t.Errorf("beside the folder: %v, expected only out", got)
			}
		})
	}
}

func TestFolderFilledMeanwhileIsKept(t *testing.T) {
	final := filepath.Join(t.TempDir(), "out")
	d, err := Create(final, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	write(t, final+"/theirs", "x")
	if err := d.Commit(); ui.ExitCode(err) != ui.ExitUsage {
		t.Fatalf("Commit = %v, expected a usage error", err)
	}
	if got := read(t, final+"/theirs"); got != "x" {
		t.Errorf("theirs = %q", got)
	}
}

func TestInUse(t *testing.T) {
	final := filepath.Join(t.TempDir(), "out")
	d, err := Create(final, false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, d.Path()+"/x", "1")
	_, err = Create(final, true)
	if ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second Create = %v, expected a usage error: in use", err)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, final+"/x"); got != "1" {
		t.Errorf("x = %q", got)
	}
}

// TestCrash has a child process die in the middle of its work.
func TestCrash(t *testing.T) {
	if final := os.Getenv("OUTDIR_TEST_CRASH"); final != "" {
		d, err := Create(final, false)
		if err != nil {
			t.Fatal(err)
		}
		write(t, d.Path()+"/half", "x")
		os.Exit(7)
	}
	final := filepath.Join(t.TempDir(), "out")
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$")
	cmd.Env = append(os.Environ(), "OUTDIR_TEST_CRASH="+final)
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 7 {
		t.Fatalf("child: %v\n%s", err, out)
	}
	if _, err := os.Stat(final); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("after the crash: Stat(final) = %v", err)
	}
	d, err := Create(final, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, d.Path()); len(got) != 0 {
		t.Errorf("leftovers of the crash: %v", got)
	}
	write(t, d.Path()+"/whole", "x")
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, final); !slices.Equal(got, []string{"whole"}) {
		t.Errorf("folder holds %v, expected whole", got)
	}
}

func TestRestoreAside(t *testing.T) {
	for _, c := range []struct{ name, final, want string }{
		{"cut between the renames", "", "old"},
		{"cut before the removal", "new", "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			final := filepath.Join(t.TempDir(), "out")
			write(t, asideName(final)+"/x", "old")
			if c.final != "" {
				write(t, final+"/x", c.final)
			}
			d, err := Create(final, true)
			if err != nil {
				t.Fatal(err)
			}
			d.Abort()
			if got := read(t, final+"/x"); got != c.want {
				t.Errorf("x = %q, expected %q", got, c.want)
			}
			if got := names(t, filepath.Dir(final)); !slices.Equal(got, []string{"out"}) {
				t.Errorf("beside the folder: %v", got)
			}
		})
	}
}

func TestOneOfManyWins(t *testing.T) {
	final := filepath.Join(t.TempDir(), "out")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			d, err := Create(final, true)
			if ui.ExitCode(err) == ui.ExitUsage {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Abort()
			for _, f := range []string{"a", "b"} {
				if err := os.WriteFile(filepath.Join(d.Path(), f), []byte(fmt.Sprint(i)), 0o666); err != nil {
					t.Error(err)
				}
			}
			if err := d.Commit(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if a, b := read(t, final+"/a"), read(t, final+"/b"); a != b {
		t.Errorf("two writers mixed: a = %s, b = %s", a, b)
	}
}

func TestSymbolicLinkIsFollowed(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Skip(err)
	}
	d, err := Create(link, false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, d.Path()+"/x", "1")
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target+"/x"); got != "1" {
		t.Errorf("x = %q", got)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "latest")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != text {
			t.Errorf("content %q, expected %q", got, text)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{"latest"}) {
		t.Errorf("folder holds %v", got)
	}
	if err := WriteFile(filepath.Join(dir, "no", "latest"), nil); err == nil {
		t.Error("writing into a missing folder succeeded")
	}
}
