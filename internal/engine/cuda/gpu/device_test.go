//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const vectorAdd = `
extern "C" __global__ void add(float *out, const float *a, const float *b, float scale, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = a[i] + scale * b[i];
}
extern "C" __global__ void poke(float *p) { p[threadIdx.x] = 1; }
extern "C" __global__ void reverse(float *p) {
  extern __shared__ float buffer[];
  for (int i = threadIdx.x; i < LENGTH; i += blockDim.x) buffer[i] = p[i];
  __syncthreads();
  for (int i = threadIdx.x; i < LENGTH; i += blockDim.x) p[i] = buffer[LENGTH - 1 - i];
}
`

// do opens the first GPU and runs f on its thread; without one it skips.
func do(t testing.TB, f func(info Info, s Stream) error) {
	t.Helper()
	if err := Load(); err != nil {
		t.Skipf("needs a GPU: %v", err)
	}
	d, err := Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = d.Do(func() error {
		s, err := NewStream()
		if err != nil {
			return err
		}
		defer s.Destroy()
		return f(d.Info(), s)
	})
	if err != nil {
		t.Error(err)
	}
}

// arena is scratch memory that is freed at the end of the test's function.
func arena(t testing.TB, size int64) (*Arena, func()) {
	t.Helper()
	a, err := NewArena(size)
	if err != nil {
		t.Fatal(err)
	}
	return a, func() {
		if err := a.Free(); err != nil {
			t.Error(err)
		}
	}
}

func compile(info Info, cache *Cache) (*Module, error) {
	c, err := NewCompiler(info, cache)
	if err != nil {
		return nil, err
	}
	image, err := c.Compile(Source{Name: "add.cu", Text: vectorAdd, Options: []string{"-DLENGTH=20000"}})
	if err != nil {
		return nil, err
	}
	return LoadModule("add.cu", image)
}

func randoms(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = r.Float32()*2 - 1
	}
	return x
}

func TestDevices(t *testing.T) {
	do(t, func(info Info, _ Stream) error {
		all, err := Devices()
		if err != nil {
			return err
		}
		if len(all) == 0 || all[0] != info {
			t.Errorf("Devices gives %v, the open device is %v", all, info)
		}
		free, total, err := FreeMemory()
		if err != nil {
			return err
		}
		if free <= 0 || free > total || info.SMs <= 0 || info.SharedMemory < 48<<10 || info.PeakBF16() <= 0 {
			t.Errorf("implausible: %+v, %d of %d bytes free", info, free, total)
		}
		t.Logf("%v, driver %s, %.1f of %.1f GiB free, peak %.0f TFLOP/s, clock %d MHz, L2 %d MiB, %d KiB shared",
			info, info.Driver, float64(free)/(1<<30), float64(total)/(1<<30), info.PeakBF16()/1e12,
			info.Clock/1000, info.L2>>20, info.SharedMemory>>10)
		return nil
	})
	if err := Load(); err == nil {
		if _, err := Open(1 << 10); !errors.Is(err, ErrNoDevice) {
			t.Errorf("opening a GPU that is not there: %v", err)
		}
	}
}

func TestKernel(t *testing.T) {
	cache, warnings := testCache(t)
	do(t, func(info Info, s Stream) error {
		m, err := compile(info, cache)
		if err != nil {
			return err
		}
		defer m.Unload()
		k, err := m.Kernel("add")
		if err != nil {
			return err
		}
		const n = 100003
		r := rand.New(rand.NewPCG(3, 4))
		a, b, got := randoms(r, n), randoms(r, n), make([]float32, n)
		mem, free := arena(t, 3*n*4+2*Alignment)
		defer free()
		pa, pb, po := mem.At(0, n*4), mem.At(n*4+4, n*4), mem.At(2*n*4+8, n*4)
		if err := errors.Join(Upload(pa, a), Upload(pb, b)); err != nil {
			return err
		}
		if err := k.Launch(s, Grid1(n, 256), po, pa, pb, float32(0.5), int32(n)); err != nil {
			return err
		}
		if err := errors.Join(s.Synchronize(), Download(got, po)); err != nil {
			return err
		}
		for i := range got {
			if want := a[i] + 0.5*b[i]; got[i] != want {
				t.Fatalf("element %d: got %v, want %v", i, got[i], want)
			}
		}
		if _, err := m.Kernel("subtract"); err == nil || !strings.Contains(err.Error(), "subtract") {
			t.Errorf("a kernel that is not there: %v", err)
		}
		return nil
	})
	if len(*warnings) > 0 {
		t.Errorf("unexpected warnings: %q", *warnings)
	}
}

func TestKernelWithMuchSharedMemory(t *testing.T) {
	cache, _ := testCache(t)
	do(t, func(info Info, s Stream) error {
		m, err := compile(info, cache)
		if err != nil {
			return err
		}
		defer m.Unload()
		k, err := m.Kernel("reverse")
		if err != nil {
			return err
		}
		const n = 20000
		mem, free := arena(t, n*4)
		defer free()
		a, got := randoms(rand.New(rand.NewPCG(5, 6)), n), make([]float32, n)
		if err := Upload(mem.At(0, n*4), a); err != nil {
			return err
		}
		if err := k.Launch(s, Grid{Threads: [3]int{512}, Shared: n * 4}, mem.At(0, n*4)); err != nil {
			return err
		}
		if err := errors.Join(s.Synchronize(), Download(got, mem.At(0, n*4))); err != nil {
			return err
		}
		for i := range got {
			if got[i] != a[n-1-i] {
				t.Fatalf("element %d: got %v, want %v", i, got[i], a[n-1-i])
			}
		}
		return nil
	})
}

func TestDamagedKernelCacheIsRepaired(t *testing.T) {
	cache, warnings := testCache(t)
	do(t, func(info Info, _ Stream) error {
		for round := range 2 {
			m, err := compile(info, cache)
			if err != nil {
				return err
			}
			if err := m.Unload(); err != nil {
				return err
			}
			if round == 1 {
				break
			}
			files, err := filepath.Glob(filepath.Join(cache.dir, "*.cubin"))
			if err != nil || len(files) != 1 {
				t.Fatalf("want one compiled kernel in the cache, found %v, %v", files, err)
			}
			data, err := os.ReadFile(files[0])
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 0x10
			if err := os.WriteFile(files[0], data, 0o644); err != nil {
				return err
			}
		}
		if len(*warnings) != 1 || !strings.Contains((*warnings)[0], "checksum") {
			t.Errorf("want one warning of a checksum, got %q", *warnings)
		}
		return nil
	})
}

func TestPinnedCopies(t *testing.T) {
	do(t, func(_ Info, s Stream) error {
		const n = 1 << 20
		in, err := NewPinned[int32](n)
		if err != nil {
			return err
		}
		defer in.Free()
		out, err := NewPinned[int32](n)
		if err != nil {
			return err
		}
		defer out.Free()
		mem, free := arena(t, 2*n*4)
		defer free()
		for i := range in.Slice() {
			in.Slice()[i] = int32(i * 7)
		}
		done, err := NewEvent(false)
		if err != nil {
			return err
		}
		defer done.Destroy()
		other, err := NewStream()
		if err != nil {
			return err
		}
		defer other.Destroy()
		if err := errors.Join(in.Upload(s, mem.At(0, n*4), 0, n), done.Record(s), other.Wait(done),
			other.Copy(mem.At(n*4, n*4), mem.At(0, n*4), n*4), out.Download(other, mem.At(n*4, n*4), n),
			other.Synchronize()); err != nil {
			return err
		}
		for i, v := range out.Slice() {
			if v != int32(i*7) {
				t.Fatalf("element %d: got %d, want %d", i, v, i*7)
			}
		}
		return nil
	})
}

func TestGraphReplay(t *testing.T) {
	cache, _ := testCache(t)
	do(t, func(info Info, s Stream) error {
		m, err := compile(info, cache)
		if err != nil {
			return err
		}
		defer m.Unload()
		k, err := m.Kernel("add")
		if err != nil {
			return err
		}
		const n = 4096
		mem, free := arena(t, 3*n*4)
		defer free()
		a, b, sum := mem.At(0, n*4), mem.At(n*4, n*4), mem.At(2*n*4, n*4)
		g, err := Capture(s, func() error {
			return errors.Join(s.Copy(sum, b, n*4),
				k.Launch(s, Grid1(n, 128), sum, sum, a, float32(1), int32(n)),
				k.Launch(s, Grid1(n, 128), sum, sum, a, float32(2), int32(n)))
		})
		if err != nil {
			return err
		}
		defer g.Destroy()
		if g.Nodes() != 3 {
			t.Errorf("the graph has %d nodes, want 3", g.Nodes())
		}
		for round := range 3 {
			x, y, got := make([]float32, n), make([]float32, n), make([]float32, n)
			for i := range x {
				x[i], y[i] = float32(i*(round+1)), float32(round)
			}
			if err := errors.Join(Upload(a, x), Upload(b, y), g.Launch(s), s.Synchronize(), Download(got, sum)); err != nil {
				return err
			}
			for i := range got {
				if want := y[i] + 3*x[i]; got[i] != want {
					t.Fatalf("round %d, element %d: got %v, want %v", round, i, got[i], want)
				}
			}
		}
		// An error inside a capture must leave the stream usable.
		if _, err := Capture(s, func() error { return errors.New("stop") }); err == nil || err.Error() != "stop" {
			t.Errorf("a capture that fails: %v", err)
		}
		return errors.Join(g.Launch(s), s.Synchronize())
	})
}

func TestOutOfMemory(t *testing.T) {
	do(t, func(info Info, s Stream) error {
		_, err := NewArena(info.Memory + 1<<30)
		if !errors.Is(err, ErrOutOfMemory) {
			t.Errorf("got %v, want ErrOutOfMemory", err)
		} else if !strings.Contains(err.Error(), "micro_rows") || !strings.Contains(err.Error(), "free") {
			t.Errorf("the message does not say what to do: %v", err)
		}
		a, err := NewArena(1 << 20) // the device is still usable
		if err != nil {
			return err
		}
		return a.Free()
	})
}

// TestLostDevice damages the context in a process of its own.
func TestLostDevice(t *testing.T) {
	const child = "MLKV_TEST_LOST_DEVICE"
	if os.Getenv(child) == "" {
		if err := Load(); err != nil {
			t.Skipf("needs a GPU: %v", err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestLostDevice$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	cache, _ := testCache(t)
	do(t, func(info Info, s Stream) error {
		m, err := compile(info, cache)
		if err != nil {
			return err
		}
		k, err := m.Kernel("poke")
		if err != nil {
			return err
		}
		if err := k.Launch(s, Grid{Threads: [3]int{32}}, Ptr(16)); err != nil {
			return err
		}
		err = s.Synchronize()
		if !errors.Is(err, ErrDeviceLost) {
			t.Errorf("got %v, want ErrDeviceLost", err)
		}
		t.Log(err)
		return nil
	})
}

func TestDoAfterClose(t *testing.T) {
	if err := Load(); err != nil {
		t.Skipf("needs a GPU: %v", err)
	}
	d, err := Open(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if err := d.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
