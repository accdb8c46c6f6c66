//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/engine"
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/model"
)

// TestTrainerThatDoesNotFit: the plan says so, the trainer is refused at once
// with what to change, and a smaller one can still be made.
func TestTrainerThatDoesNotFit(t *testing.T) {
	e := openGPU(t, Options{})
	cfg, err := model.Sized("pythia-160m")
	if err != nil {
		t.Fatal(err)
	}
	o := engine.TrainOptions{Rows: 4096, Length: 2048, Optimizer: testOptimizer}
	m, err := e.PlanTrainer(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	if m.Total() <= e.Info().Total {
		t.Errorf("the plan of a batch of 4096 rows holds only %d bytes", m.Total())
	}
	if _, err := e.Trainer(cfg, testWeights{}, o); !errors.Is(err, gpu.ErrOutOfMemory) || !strings.Contains(err.Error(), "uptrain.micro_rows") {
		t.Errorf("got %v, want ErrOutOfMemory and what to change", err)
	}
	small := gpuModels(t)["plain"]
	train(t, newTrainer(t, e, small, randomWeights(small, 3), engine.TrainOptions{Rows: 2, Length: 64, Optimizer: testOptimizer}), small, 2, 64, 1, 1)
}

// TestDamagedCaches damages a copy of the cache: what is damaged is made anew,
// with a warning, and the results are the same bits.
func TestDamagedCaches(t *testing.T) {
	cfg := gpuModels(t)["plain"]
	w := randomWeights(cfg, 3)
	run := func() (weights []float32, warnings []string) {
		e, err := Open(0, Options{Warn: func(s string) { warnings = append(warnings, s) }})
		if err != nil {
			t.Skipf("needs a GPU: %v", err)
		}
		defer e.Close()
		tr, err := e.Trainer(cfg, w, engine.TrainOptions{Rows: 2, Length: 64, Optimizer: testOptimizer})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		_, weights = train(t, tr, cfg, 2, 64, 2, 1)
		return weights, warnings
	}
	want, _ := run()
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	if err := os.CopyFS(filepath.Join(copied, "mlkv"), os.DirFS(filepath.Join(base, "mlkv"))); err != nil {
		t.Fatal(err)
	}
	damaged := 0
	if err := filepath.WalkDir(copied, func(path string, d fs.DirEntry, err error) error {
		// Large kernels take long to compile.
		info, ierr := d.Info()
		if err = errors.Join(err, ierr); err != nil || d.IsDir() || info.Size() > 32<<10 {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 0x10
		damaged++
		return os.WriteFile(path, data, 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CACHE_HOME", copied)
	got, warnings := run()
	sameBits(t, got, want)
	if len(warnings) == 0 || !strings.Contains(warnings[0], "checksum") {
		t.Errorf("warnings %q after damaging %d files, want one of a checksum", warnings, damaged)
	}
}

// TestLostGPU damages the context in the middle of a training, in a process of
// its own: the next results are errors, and closing does not hang.
func TestLostGPU(t *testing.T) {
	const child = "MLKV_TEST_LOST_GPU"
	if os.Getenv(child) == "" {
		if err := Available(); err != nil {
			t.Skipf("needs a GPU: %v", err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLostGPU$", "-test.v", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	opened, err := Open(0, Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, cfg := opened.(*Engine), gpuModels(t)["plain"]
	made, err := e.Trainer(cfg, randomWeights(cfg, 3), engine.TrainOptions{Rows: 2, Length: 64, Optimizer: testOptimizer})
	if err != nil {
		t.Fatal(err)
	}
	tr := made.(*trainer)
	train(t, tr, cfg, 2, 64, 2, 1)
	if err := e.dev.gpu.Do(func() error { return tr.clearState(gpu.Ptr(16)) }); err != nil {
		t.Fatal(err)
	}
	err = tr.Accumulate(t.Context(), testBatch(cfg, 2, 64, 1))
	if err == nil {
		_, err = tr.Update(t.Context(), 1e-3)
	}
	if !errors.Is(err, gpu.ErrDeviceLost) || !strings.Contains(err.Error(), "resume from the last checkpoint") {
		t.Errorf("got %v, want ErrDeviceLost and what to do", err)
	}
	if err := tr.Read(model.EmbedIn, engine.SlotWeight, make([]float32, cfg.VocabSize*cfg.HiddenSize)); err == nil {
		t.Error("weights of a lost GPU were read")
	}
	t.Log(tr.Close(), e.Close())
}
