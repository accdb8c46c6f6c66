//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

import (
	"bytes"
	"strings"
	"testing"
)

// These tests need NVRTC but no GPU.
func compiler(t *testing.T, info Info) (*Compiler, *Cache) {
	t.Helper()
	cache, _ := testCache(t)
	c, err := NewCompiler(info, cache)
	if err != nil {
		t.Skipf("needs NVRTC, or a GPU machine that has it: %v", err)
	}
	return c, cache
}

var hopper = Info{Name: "H100", Major: 9, SMs: 132, Driver: "13.0"}

func TestCompileToCubin(t *testing.T) {
	c, _ := compiler(t, hopper)
	src := Source{Name: "k.cu", Text: "#include \"f.cuh\"\nextern \"C\" __global__ void k(float *p) { *p = f(); }",
		Headers: map[string]string{"f.cuh": "__device__ float f() { return VALUE; }"}, Options: []string{"-DVALUE=3.f"}}
	image, err := c.Compile(src)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(image, []byte("\x7fELF")) {
		t.Fatalf("the image is no ELF file: %q", image[:min(len(image), 16)])
	}
	again, err := c.Compile(src)
	if err != nil || !bytes.Equal(again, image) {
		t.Errorf("from the cache: %d bytes, %v; want %d", len(again), err, len(image))
	}
	src.Options = []string{"-DVALUE=4.f"}
	other, err := c.Compile(src)
	if err != nil || bytes.Equal(other, image) {
		t.Errorf("other options gave the same image (%v)", err)
	}
}

func TestCompileErrorHoldsTheLog(t *testing.T) {
	c, _ := compiler(t, hopper)
	_, err := c.Compile(Source{Name: "broken.cu", Text: "__global__ void k() { undefined_name = 1; }"})
	if err == nil {
		t.Fatal("a broken program compiled")
	}
	for _, want := range []string{"broken.cu", "undefined_name", "sm_90a"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q: %v", want, err)
		}
	}
}

func TestCompileForUnknownDevice(t *testing.T) {
	c, _ := compiler(t, Info{Name: "of the future", Major: 99, Driver: "13.0"})
	image, err := c.Compile(Source{Name: "k.cu", Text: "extern \"C\" __global__ void k(float *p) { *p = 1; }"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(image, []byte(".target")) {
		t.Errorf("want PTX, got %q", image[:min(len(image), 40)])
	}
}
