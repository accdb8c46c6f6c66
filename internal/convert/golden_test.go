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
	"mlkv/internal/golden"
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

// TestGoldenAuthors converts as the authors' converter does and compares every
// tensor by its checksum.
func TestGoldenAuthors(t *testing.T) {
	for _, path := range golden.Find(t, "*/authors-convert.json") {
		dir := filepath.Dir(path)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var conversions goldenConversions
		if err := json.Unmarshal(data, &conversions); err != nil {
			t.Fatal(err)
		}
		for name, want := range conversions.Configs {
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
