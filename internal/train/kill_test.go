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

	"mlkv/internal/checkpoint"
	"mlkv/internal/config"
	"mlkv/internal/engine"
	"mlkv/internal/ui"
)

// childVariable makes the test binary train instead of testing.
const childVariable = "MLKV_TRAIN_TEST_CHILD"

// child is the run of a child process.
type child struct {
	Config          config.Config
	Checkpoint, Out string
	// DieAt is the call of Trainer.Read, which only writing a checkpoint or
	// the model makes, that kills the process; 0 for none.
	DieAt int
}

// mortal kills its process while it is read.
type mortal struct {
	engine.Trainer
	calls, dieAt int
}

func (m *mortal) Read(name string, slot engine.Slot, dst []float32) error {
	if m.calls++; m.calls == m.dieAt {
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			self.Kill()
		}
		select {}
	}
	return m.Trainer.Read(name, slot, dst)
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
		o := Options{Config: c.Config, Checkpoint: c.Checkpoint, Out: c.Out}
		wrap(&o, func(t engine.Trainer) engine.Trainer { return &mortal{t, 0, c.DieAt} })
		err = Run(context.Background(), o, ui.System())
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
	c := child{Config: o.Config, Checkpoint: o.Checkpoint, Out: o.Out}
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
			err := cmd.Wait()
			if _, missing := os.Stat(filepath.Join(c.Out, resultFile)); missing == nil {
				break // done before it was killed
			}
			if killed == kills {
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

// TestKilledWhileSaving kills a run at several points of writing its
// checkpoints and the final model. Every time, the checkpoint before must be
// found whole.
func TestKilledWhileSaving(t *testing.T) {
	o := testOptions(t)
	o.Config.Uptrain.CheckpointEvery = 3
	c := child{Config: o.Config, Checkpoint: o.Checkpoint, Out: o.Out}
	if err := c.start(t).Wait(); err != nil {
		t.Fatalf("unbroken run: %v", err)
	}
	want := content(t, c.Out)
	base, err := checkpoint.Open(o.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	params := len(base.Config().Params())
	base.Close()

	c.Out = filepath.Join(t.TempDir(), "run")
	for _, k := range []struct {
		dieAt, newest int
	}{
		{1, 0},             // the first checkpoint's first tensor
		{params + 1, 0},    // its first moment
		{3*params + 1, 3},  // the second checkpoint
		{3 * params, 3},    // the last tensor of the second
		{9*params + 1, 12}, // the model
		{1, 12},            // the model, alone
		{params - 1, 12},   // the model's last tensors
	} {
		c.DieAt = k.dieAt
		if err := c.start(t).Wait(); err == nil {
			t.Fatalf("the run ended before read %d", k.dieAt)
		}
		f := folder{path: c.Out}
		text, err := os.ReadFile(f.file(runFile))
		if err != nil {
			t.Fatal(err)
		}
		var record runRecord
		if err := json.Unmarshal(text, &record); err != nil {
			t.Fatal(err)
		}
		st, _, err := store{dir: f.file(checkpointsDir)}.find(record.Identity.hash(), func(err error) { t.Error(err) })
		if err != nil || st.Step != k.newest {
			t.Errorf("killed at read %d: checkpoint of step %d is found (%v), expected %d", k.dieAt, st.Step, err, k.newest)
		}
	}
	c.DieAt = 0
	if err := c.start(t).Wait(); err != nil {
		t.Fatal(err)
	}
	sameContent(t, content(t, c.Out), want)
}
