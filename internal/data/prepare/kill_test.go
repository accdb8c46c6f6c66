//go:build unix

package prepare

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"mlkv/internal/data"
)

// TestKill ends preparations with SIGKILL at random moments and starts them
// again until they are done: no shard may differ from those of an unbroken run.
// MLKV_KILLS is the number of kills, 2 by default.
func TestKill(t *testing.T) {
	if options := os.Getenv("PREPARE_TEST_KILL"); options != "" {
		var o Options
		if err := json.Unmarshal([]byte(options), &o); err != nil {
			t.Fatal(err)
		}
		saveEvery = 0
		if err := Run(t.Context(), o, quiet); err != nil {
			t.Fatal(err)
		}
		return
	}
	kills := 2
	if n, err := strconv.Atoi(os.Getenv("MLKV_KILLS")); err == nil {
		kills = n
	}
	paths, _ := testInputs(t)
	o := testOptions(t, paths...)
	o.Packing, o.Dedup, o.HeldOut, o.SplitSets = data.Authors, true, 0.1, true
	child := func() *exec.Cmd {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "PREPARE_TEST_KILL="+string(b))
		return cmd
	}
	begun := time.Now()
	if out, err := child().CombinedOutput(); err != nil {
		t.Fatalf("unbroken run: %v\n%s", err, out)
	}
	took := time.Since(begun)
	want := files(t, o.Out)

	r := rand.New(rand.NewPCG(uint64(kills), 1))
	done, resumed := 0, 0
	takeAway := func() { // an output that is there must be right
		if _, err := os.Stat(o.Out); err != nil {
			return
		}
		sameFiles(t, files(t, o.Out), want)
		if err := os.RemoveAll(o.Out); err != nil {
			t.Fatal(err)
		}
		done++
	}
	for killed := 0; killed < kills; {
		takeAway()
		w := workFolder(o.Out)
		if _, err := os.Stat(journalPath(w)); err == nil {
			resumed++
		}
		cmd := child()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.Int64N(int64(took))))
		if cmd.Process.Kill() == nil {
			killed++
		}
		cmd.Wait()
	}
	takeAway()
	if out, err := child().CombinedOutput(); err != nil {
		t.Fatalf("last run: %v\n%s", err, out)
	}
	sameFiles(t, files(t, o.Out), want)
	t.Logf("%d kills, %d resumed runs, %d runs done before the last", kills, resumed, done)
}
