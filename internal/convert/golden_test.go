package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mlkv/internal/checkpoint"
)

// goldenConversions is authors-convert.json: what the authors' converter
// writes.
type goldenConversions struct {
	Configs map[string]struct {
		KVLayers         int `json:"num_key_value_layers"`
		KVHeads          int `json:"num_key_value_heads"`
		IntermediateSize int `json:"intermediate_size"`
		Tensors          map[string]struct {
			Shape  []int  `json:"shape"`
			SHA256 string `json:"sha256"`
		} `json:"tensors"`
	} `json:"configs"`
}

// goldens returns the folders that hold a model and its golden conversions, or
// skips.
func goldens(t *testing.T) []string {
	t.Helper()
	root := os.Getenv("MLKV_GOLDEN")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "golden")
	}
	found, err := filepath.Glob(filepath.Join(root, "*", "authors-convert.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skipf("no golden conversions in %s: they are shared data beside the repository", root)
	}
	for i := range found {
		found[i] = filepath.Dir(found[i])
	}
	return found
}

// TestGoldenAuthors converts as the authors' converter does and compares every
// tensor by its checksum.
func TestGoldenAuthors(t *testing.T) {
	for _, dir := range goldens(t) {
		data, err := os.ReadFile(filepath.Join(dir, "authors-convert.json"))
		if err != nil {
			t.Fatal(err)
		}
		var golden goldenConversions
		if err := json.Unmarshal(data, &golden); err != nil {
			t.Fatal(err)
		}
		for name, want := range golden.Configs {
			t.Run(filepath.Base(dir)+"/"+name, func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "out")
				s, _ := streams()
				o := Options{Source: dir, Output: out, KVLayers: want.KVLayers, KVHeads: want.KVHeads, Preset: "authors", DType: "float32"}
				if err := Run(context.Background(), o, s); err != nil {
					t.Fatal(err)
				}
				c, err := checkpoint.Open(out)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if got := c.Config().IntermediateSize; got != want.IntermediateSize {
					t.Errorf("intermediate_size %d, expected %d", got, want.IntermediateSize)
				}
				f, err := checkpoint.OpenSafetensors(filepath.Join(out, "model.safetensors"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if len(f.Names()) != len(want.Tensors) {
					t.Errorf("%d tensors, expected %d", len(f.Names()), len(want.Tensors))
				}
				for name, w := range want.Tensors {
					got, err := f.Tensor(name)
					if err != nil {
						t.Error(err)
						continue
					}
					sum := sha256.Sum256(got.Data)
					if !slices.Equal(got.Shape, w.Shape) || hex.EncodeToString(sum[:]) != w.SHA256 {
						t.Errorf("tensor %s %v: SHA-256 %x, expected %s of shape %v", name, got.Shape, sum, w.SHA256, w.Shape)
					}
				}
			})
		}
	}
}
