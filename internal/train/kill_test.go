package train

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"mlkv/internal/config"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/ui"
)

// childVariable makes the test binary train instead of testing.
const childVariable = "MLKV_TRAIN_TEST_CHILD"

// child is the run of a child process.
type child struct {
	Config          config.Config
	Checkpoint, Out string
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		os.Exit(runChild(text))
	}
	os.Exit(m.Run())
}

func runChild(text string) int {
	var c child
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		err = Run(context.Background(), Options{
			Config: c.Config, Checkpoint: c.Checkpoint, Out: c.Out,
			Device: func() (engine.Engine, error) { return cpu.Open(1), nil },
		}, ui.System())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return ui.ExitCode(err)
}

// start begins the run in a process of its own.
func (c child) start(t *testing.T) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestKilled kills a run with SIGKILL at twenty random moments, goes on with
// it each time, and expects the bytes of an unbroken run.
func TestKilled(t *testing.T) {
	const kills = 20
	o := testOptions(t)
	o.Config.Uptrain.CheckpointEvery = 2
	c := child{o.Config, o.Checkpoint, o.Out}
	began := time.Now()
	if err := c.start(t).Wait(); err != nil {
		t.Fatalf("unbroken run: %v", err)
	}
	whole := time.Since(began)
	want := content(t, c.Out)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, an unbroken run takes %v", seed, whole)
	rng := rand.New(rand.NewPCG(seed, 0))
	runs, at := 0, map[int]int{}
	for killed := 0; killed < kills; runs++ {
		c.Out = filepath.Join(t.TempDir(), "run")
		for {
			cmd := c.start(t)
			if killed < kills {
				time.Sleep(time.Duration(rng.Float64() * float64(whole)))
				cmd.Process.Kill()
			}
			if err := cmd.Wait(); err == nil {
				break // done before it was killed
			} else if killed == kills {
				t.Fatalf("after %d kills: %v", killed, err)
			}
			killed++
			steps, err := store{dir: filepath.Join(c.Out, checkpointsDir)}.steps()
			if err != nil {
				t.Fatal(err)
			}
			if steps == nil {
				steps = []int{0}
			}
			at[steps[0]]++
		}
		sameContent(t, content(t, c.Out), want)
	}
	t.Logf("%d kills in %d runs; number of kills by the newest checkpoint's step: %v", kills, runs, at)
}
