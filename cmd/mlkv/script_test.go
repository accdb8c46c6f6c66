package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"mlkv/internal/engine/cuda"
	"mlkv/internal/ui"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mlkv": main})
}

// TestScripts runs testdata/script/*.txtar with this program as the command
// mlkv. In a script $ROOT is the folder of go.mod and $SHARED that of shared
// data; a script that needs the latter begins with "[!shared] skip", one that
// needs a program with the CUDA engine with "[!cuda] skip".
func TestScripts(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(root, "..", "shared")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("ROOT", root)
			env.Setenv("SHARED", shared)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "shared":
				_, err := os.Stat(shared)
				return err == nil, nil
			case "cuda":
				return !errors.Is(cuda.Available(), cuda.ErrNotBuilt), nil
			}
			return false, fmt.Errorf("condition %s is unknown", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitCode},
	})
}

// exitCode is the script command "exitcode N ARGS...": mlkv must end with code
// N. Its outputs can be matched by stdout and stderr.
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N COMMAND ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		_, got, _ = strings.Cut(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("mlkv %s: exit code %s, want %s (%v)", strings.Join(args[2:], " "), got, args[0], err)
	}
}

// Every command has a one-line description and a
// check of its arguments; its help prints to standard output.
func TestHelpOfEveryCommand(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: expected a one-line description without a full stop, found %q", path, cmd.Short)
		}
		if cmd.Args == nil {
			t.Errorf("%s: Args is nil, so that stray arguments pass", path)
		}
		var out, errs strings.Builder
		args := append(strings.Fields(path)[1:], "--help")
		code := run(args, ui.Streams{In: strings.NewReader(""), Out: &out, Err: &errs, Width: 80})
		if code != ui.ExitOK || !strings.Contains(out.String(), "Usage:") || errs.Len() > 0 {
			t.Errorf("%s --help: exit code %d, %d bytes of output, errors %q", path, code, out.Len(), errs.String())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&app{}))
}

func TestPanicIsReported(t *testing.T) {
	for _, debug := range []string{"", "1"} {
		t.Setenv("MLKV_DEBUG", debug)
		var errs strings.Builder
		func() {
			defer func() { reportPanic(ui.Streams{Err: &errs}, recover()) }()
			var s []int
			_ = s[len(os.Args)]
		}()
		if !strings.Contains(errs.String(), "internal error: runtime error: index out of range") {
			t.Errorf("message: %s", errs.String())
		}
		if got := strings.Contains(errs.String(), "script_test.go:"); got != (debug == "1") {
			t.Errorf("MLKV_DEBUG=%q: stack printed: %v", debug, got)
		}
	}
}
