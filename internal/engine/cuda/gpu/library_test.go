package gpu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLibraryIsFoundInWheels(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VIRTUAL_ENV", root)
	got := nvrtcLibrary.candidates("13.0")
	if !slices.Contains(got, file) || got[0] != "libnvrtc.so.13" {
		t.Errorf("candidates %q do not begin with the loader's path or lack %s", got, file)
	}
	if slices.Contains(nvrtcLibrary.candidates("12.4"), file) {
		t.Error("a library of CUDA 13 is offered to a driver of CUDA 12")
	}
}

func TestLibraryThatIsAbsent(t *testing.T) {
	t.Setenv("MLKV_NVRTC", "")
	err := nvrtcLibrary.open("13.0", func(path string) error { return errors.New("cannot open " + path) })
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"libnvrtc.so", "cannot open libnvrtc.so.13", "pip install nvidia-cuda-nvrtc", "MLKV_NVRTC"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q: %v", want, err)
		}
	}
	t.Setenv("MLKV_NVRTC", "/nowhere/libnvrtc.so")
	if err := nvrtcLibrary.open("13.0", func(path string) error { return errors.New("no") }); !strings.Contains(err.Error(), "MLKV_NVRTC=/nowhere") {
		t.Errorf("the error does not name the variable: %v", err)
	}
}
