//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"mlkv/internal/engine/cuda/gpu"
)

// TestKernelsCompile compiles every kernel file for the generations that
// MLKV_TEST_KERNELS names ("8.0 9.0") and leaves the code in the cache. It needs
// NVRTC but no GPU, and minutes.
func TestKernelsCompile(t *testing.T) {
	names := strings.Fields(os.Getenv("MLKV_TEST_KERNELS"))
	if len(names) == 0 {
		t.Skip("MLKV_TEST_KERNELS names no generation")
	}
	for _, name := range names {
		info := gpu.Info{Driver: "13.0"}
		if _, err := fmt.Sscanf(name, "%d.%d", &info.Major, &info.Minor); err != nil {
			t.Fatalf("MLKV_TEST_KERNELS: %q: %v", name, err)
		}
		c, err := gpu.NewCompiler(info, gpu.OpenCache("kernels", nil))
		if err != nil {
			t.Skipf("needs NVRTC: %v", err)
		}
		k := newKernelSet(c)
		k.defines = testDefines()
		var wg sync.WaitGroup
		for _, v := range everyVariant(k) {
			wg.Go(func() {
				if _, err := k.image(v); err != nil {
					t.Errorf("%s for %s: %v", v, info.Arch(), err)
				}
			})
		}
		wg.Wait()
	}
}

// testDefines are further constants of every kernel file, for tools that look
// into kernels (tools/sanitize-gpu.sh).
func testDefines() []string { return strings.Fields(os.Getenv("MLKV_TEST_DEFINES")) }

// everyVariant lists all kernel files with constants that models have.
func everyVariant(k *kernelSet) []variant {
	constants := map[string][]string{
		"attention.cu": {"HEAD_SIZE=32", "HEAD_SIZE=64", "HEAD_SIZE=80", "HEAD_SIZE=128", "HEAD_SIZE=256"},
		"layernorm.cu": {"HIDDEN=96", "HIDDEN=256", "HIDDEN=320", "HIDDEN=512", "HIDDEN=768", "HIDDEN=1024", "HIDDEN=2048"},
		"residual.cu":  {"HIDDEN=256", "HIDDEN=320", "HIDDEN=512", "HIDDEN=768", "HIDDEN=1024", "HIDDEN=2048"},
		"decode.cu":    {"CACHE=own", "CACHE=8"}, "decode_many.cu": {"CACHE=own", "CACHE=8"},
		"headloss.cu": {"VOCAB=256", "VOCAB=512", "VOCAB=50304"},
	}
	for _, shape := range []string{"HEAD_SIZE=64 HIDDEN=768 INNER=3072 KV_HEADS=12", "HEAD_SIZE=64 HIDDEN=768 INNER=3840 KV_HEADS=1", "HEAD_SIZE=128 HIDDEN=2048 INNER=8192 KV_HEADS=16"} {
		for _, wide := range []string{" WIDE_ROWS=0", " WIDE_ROWS=1"} {
			for _, turn := range []string{" TURN_KEYS=0", " TURN_KEYS=1"} {
				constants["decode_step.cu"] = append(constants["decode_step.cu"], shape+wide+turn)
			}
		}
	}
	for _, size := range []string{"HEAD_SIZE=32", "HEAD_SIZE=64", "HEAD_SIZE=80", "HEAD_SIZE=128", "HEAD_SIZE=256"} {
		constants["decode_attention.cu"] = append(constants["decode_attention.cu"], size+" CACHE=own", size+" CACHE=8")
	}
	// The first head size is of the goldens.
	for _, size := range []string{"16", "32", "64", "80", "128", "256"} {
		wide := "4"
		if size == "256" {
			wide = "2"
		}
		for _, warps := range []string{"1", wide} {
			c := fmt.Sprintf("HEAD_SIZE=%s WARPS_OF_A_BLOCK=%s", size, warps)
			constants["attention_segments.cu"] = append(constants["attention_segments.cu"], c, c+" PAIRS=1")
		}
	}
	var list []variant
	for file := range k.programs {
		for _, storage := range []string{"STORAGE=16", "STORAGE=32"} {
			if storage == "STORAGE=16" && (file == "attention_segments.cu" || file == "pairs.cu") {
				continue // a scorer's activations are float32
			}
			if constants[file] == nil {
				list = append(list, variant{file, storage})
			}
			for _, c := range constants[file] {
				own := strings.TrimPrefix(storage, "STORAGE=")
				list = append(list, variant{file, storage + " " + strings.ReplaceAll(c, "own", own)})
			}
		}
	}
	// Of the goldens.
	return append(list, variant{"attention.cu", "STORAGE=32 HEAD_SIZE=16"},
		variant{"decode_attention.cu", "STORAGE=32 HEAD_SIZE=16 CACHE=32"}, variant{"decode_attention.cu", "STORAGE=32 HEAD_SIZE=16 CACHE=8"})
}
