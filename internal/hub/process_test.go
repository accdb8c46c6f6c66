package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mlkv/internal/ui"
)

// childVariable holds the options of a pull that the test binary then makes, in
// place of its tests.
const childVariable = "MLKV_HUB_TEST_PULL"

// childOptions are Options with what JSON leaves out.
type childOptions struct {
	Options
	Part  int64
	Pause time.Duration
}

func TestMain(m *testing.M) {
	text := os.Getenv(childVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var o childOptions
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	o.Settings.partSize, o.Settings.pause = o.Part, o.Pause
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := Run(ctx, o.Options, ui.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Width: 80})
	stop()
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
	}
	os.Exit(ui.ExitCode(err))
}

// child begins a pull in a process of its own.
func child(t *testing.T, o Options) (*exec.Cmd, *outputs) {
	t.Helper()
	cmd, out := childCommand(t, o)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// outputs are what a process wrote.
type outputs struct{ stdout, stderr bytes.Buffer }

func (o *outputs) String() string { return o.stdout.String() + o.stderr.String() }

func childCommand(t *testing.T, o Options) (*exec.Cmd, *outputs) {
	t.Helper()
	text, err := json.Marshal(childOptions{o, o.Settings.partSize, o.Settings.pause})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	var out outputs
	cmd.Stdout, cmd.Stderr = &out.stdout, &out.stderr
	return cmd, &out
}

// A pull is killed at random moments. Whatever the moment, no file is ever
// wrong, and what was received is not fetched again. MLKV_HUB_KILLS sets how
// often; the default is quick.
func TestKilled(t *testing.T) {
	kills := 12
	if n, err := strconv.Atoi(os.Getenv("MLKV_HUB_KILLS")); err == nil {
		kills = n
	}
	t.Run("large files", func(t *testing.T) {
		h := newTestHub(t, append(modelFiles(4<<20), &testFile{path: "sub/a.bin", data: randomBytes(8, 300_000), large: true})...)
		h.rate.Store(2000)
		h.kill(t, kills, 20*time.Millisecond)
	})
	t.Run("small files", func(t *testing.T) {
		var files []*testFile
		for i := range 40 {
			files = append(files, &testFile{path: fmt.Sprintf("d%d/f%d", i%7, i), data: randomBytes(int64(i), 5000), large: i%2 == 0})
		}
		newTestHub(t, files...).kill(t, kills, 60*time.Millisecond)
	})
}

// kill pulls everything again and again and ends each process within most after
// its first answer, then checks what an undisturbed pull makes of it.
func (h *testHub) kill(t *testing.T, kills int, most time.Duration) {
	o := h.options(t)
	o.Include = []string{"*"}
	var total int64
	var names []string
	for name, f := range h.files {
		total += int64(len(f.data))
		names = append(names, name)
	}
	random := rand.New(rand.NewSource(7))
	finished := 0
	for killed := 0; killed < kills; {
		if !h.killOne(t, o, time.Duration(random.Int63n(int64(most)))) {
			// It was faster; begin anew.
			if finished++; finished > 20+kills {
				t.Fatalf("only %d of %d processes were killed before their end", killed, kills)
			}
			os.RemoveAll(o.Settings.Cache)
			continue
		}
		killed++
		wantCleanCache(t, o.Settings.Cache, false)
	}
	h.rate.Store(0)
	h.wantContent(t, mustRun(t, o), names...)
	wantCleanCache(t, o.Settings.Cache, true)
	again := h.served.Load() - total*int64(finished+1)
	t.Logf("%d kills, %d pulls finished, %d bytes of %d served twice", kills, finished, again, h.served.Load())
	// A kill costs what was sent but not yet read: buffers of four connections.
	if most := int64(kills) * 200_000; again > most {
		t.Errorf("bytes served twice: expected at most %d, found %d", most, again)
	}
}

// killOne ends a pull at a time after the first content is served; false says
// that it had succeeded before.
func (h *testHub) killOne(t *testing.T, o Options, after time.Duration) bool {
	before := h.begun.Load()
	requests := h.count("")
	cmd, out := child(t, o)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	// Most of the time goes into starting: count from the first answer, or from
	// the list of files where all content is there.
	for h.begun.Load() == before && h.count("") == requests {
		select {
		case err := <-done:
			t.Fatalf("ended early (%v): %s", err, out)
		case <-time.After(time.Millisecond):
		}
	}
	var err error
	select {
	case err = <-done:
	case <-time.After(after):
		cmd.Process.Kill()
		err = <-done
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err != nil && (!ok || !s.Signaled()) {
		t.Fatalf("pull failed by itself: %v\n%s", err, out)
	}
	return err != nil
}

// Two processes that pull the same at once fetch everything once.
func TestTwoProcesses(t *testing.T) {
	h := newTestHub(t, modelFiles(500_000)...)
	h.rate.Store(5000)
	o := h.options(t)
	one, out1 := child(t, o)
	two, out2 := child(t, o)
	err := errors.Join(one.Wait(), two.Wait())
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out1, out2)
	}
	folder := strings.TrimSpace(out1.stdout.String())
	if out1.stdout.String() != out2.stdout.String() {
		t.Errorf("expected the same folder, found %s and %s", out1, out2)
	}
	h.wantContent(t, folder, "config.json", "tokenizer.json", "model.safetensors")
	wantCleanCache(t, o.Settings.Cache, true)
	if served := h.served.Load(); served > 510_000 {
		t.Errorf("bytes: expected one copy, at most 510000, found %d", served)
	}
}

// SIGINT ends a pull with exit code 130.
func TestInterruptSignal(t *testing.T) {
	h := newTestHub(t, modelFiles(500_000)...)
	h.rate.Store(1000)
	o := h.options(t)
	cmd, out := child(t, o)
	for h.begun.Load() < 3 && cmd.ProcessState == nil {
		time.Sleep(time.Millisecond)
	}
	cmd.Process.Signal(os.Interrupt)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != ui.ExitInterrupted {
		t.Errorf("exit code: expected 130, found %v\n%s", cmd.ProcessState, out)
	}
	if left, _ := filepath.Glob(filepath.Join(o.blobs(), "*.mlkv.incomplete")); len(left) == 0 {
		t.Error("nothing was kept")
	}
}

// The hub's own package finds what was pulled. MLKV_HUB_PYTHON names a Python
// that has it.
func TestPythonFindsTheFiles(t *testing.T) {
	python := os.Getenv("MLKV_HUB_PYTHON")
	if python == "" {
		t.Skip("set MLKV_HUB_PYTHON to a Python that has huggingface_hub")
	}
	h := newTestHub(t, append(modelFiles(200_000), &testFile{path: "sub/a.txt", data: []byte("a")})...)
	o := h.options(t)
	o.Include = []string{"*"}
	folder := mustRun(t, o)
	const script = `
import sys
from huggingface_hub import snapshot_download, hf_hub_download, scan_cache_dir
print(snapshot_download(sys.argv[1], local_files_only=True))
print(hf_hub_download(sys.argv[1], "sub/a.txt", local_files_only=True))
info = scan_cache_dir()
assert not info.warnings, info.warnings
repo, = info.repos
revision, = repo.revisions
print(repo.repo_id, repo.nb_files, sorted(revision.refs), revision.commit_hash)
`
	cmd := exec.Command(python, "-c", script, testRepo)
	cmd.Env = append(os.Environ(), "HF_HUB_CACHE="+o.Settings.Cache, "HF_HUB_OFFLINE=1", "HF_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := folder + "\n" + filepath.Join(folder, "sub", "a.txt") + "\n" + testRepo + " 7 ['main'] " + testCommit + "\n"
	if string(out) != want {
		t.Errorf("expected\n%sfound\n%s", want, out)
	}
}

// A pull takes no turn while another tool holds the lock on a blob.
func TestWaitsForTheLock(t *testing.T) {
	h := newTestHub(t, modelFiles(100_000)...)
	o := h.options(t)
	repo, err := o.repo()
	if err != nil {
		t.Fatal(err)
	}
	c, err := openCache(o.Settings.Cache, repo)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	f := h.files["model.safetensors"]
	l, err := c.lock(t.Context(), f.sum(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := run(t.Context(), o)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("ended while the lock was held: %v", err)
	case <-time.After(150 * time.Millisecond):
	}
	// The other tool finishes the blob.
	if err := c.root.WriteFile(blobName(f.sum()), f.data, fs.FileMode(0o666)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := h.count("GET /model.safetensors"); n != 0 {
		t.Errorf("requests for what the other tool fetched: %d", n)
	}
}

// A disk that takes no more ends a pull with an error that names the file, and
// the next one succeeds.
func TestDiskThatIsFull(t *testing.T) {
	h := newTestHub(t, modelFiles(500_000)...)
	o := h.options(t)
	cmd, _ := childCommand(t, o)
	// A limit on the size of files stands for the disk: 100 blocks of 512 bytes.
	limited := exec.Command("sh", "-c", `ulimit -f 100 && exec "$0"`, cmd.Path)
	limited.Env = cmd.Env
	out, err := limited.CombinedOutput()
	if limited.ProcessState == nil {
		t.Skip(err)
	}
	if code := limited.ProcessState.ExitCode(); code != ui.ExitFailed || !strings.Contains(string(out), "model.safetensors: cache: ") {
		t.Errorf("expected exit code 1 and the file's name, found %d\n%s", code, out)
	}
	wantCleanCache(t, o.Settings.Cache, false)
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
	wantCleanCache(t, o.Settings.Cache, true)
}
