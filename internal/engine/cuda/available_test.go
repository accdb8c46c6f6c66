//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"debug/elf"
	"errors"
	"os"
	"strings"
	"testing"

	"mlkv/internal/engine/cuda/gpu"
)

// TestAvailableWithoutDriver runs where there is no driver: this very binary
// started there, and says why it has no GPU.
func TestAvailableWithoutDriver(t *testing.T) {
	err := Available()
	if err == nil {
		t.Skip("this machine has a GPU")
	}
	if !errors.Is(err, gpu.ErrNoDriver) && !errors.Is(err, gpu.ErrNoDevice) && !errors.Is(err, gpu.ErrOldDriver) {
		t.Errorf("the error is none of package gpu's: %v", err)
	}
	if again := Available(); again != err {
		t.Errorf("a second call: got %v, want %v", again, err)
	}
}

// TestNoUnresolvedSymbols proves that the binary needs no driver to start: cgo
// lets unresolved symbols pass (build.mk), so one that driver.c lacks would show
// only when it is called.
func TestNoUnresolvedSymbols(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, lib := range libs {
		if strings.Contains(lib, "cuda") {
			t.Errorf("the binary needs %s to start", lib)
		}
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Section == elf.SHN_UNDEF && s.Version == "" && elf.ST_BIND(s.Info) == elf.STB_GLOBAL {
			t.Errorf("symbol %s is resolved by no library; is it missing in include/cuda_symbols.h?", s.Name)
		}
	}
}

// TestOpenWithoutDriver: the error of --device cuda names what is missing.
func TestOpenWithoutDriver(t *testing.T) {
	if Available() == nil {
		t.Skip("this machine has a GPU")
	}
	if e, err := Open(0, Options{}); err == nil || e != nil || !strings.Contains(err.Error(), "NVIDIA") {
		t.Errorf("got %v, %v; want an error that names what is missing", e, err)
	}
}
