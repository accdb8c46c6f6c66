package infer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
)

// goldenFolders are the folders below MLKV_GOLDEN that hold the named file.
func goldenFolders(t *testing.T, file string) []string {
	t.Helper()
	root := os.Getenv("MLKV_GOLDEN")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "golden")
	}
	found, err := filepath.Glob(filepath.Join(root, "*", file))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skipf("needs the shared goldens: no %s below %s", file, root)
	}
	for i, f := range found {
		found[i] = filepath.Dir(f)
	}
	return found
}

// Greedy decoding with a cache gives the tokens that transformers' generate
// gives, for prompts together and alone.
func TestGoldenGenerate(t *testing.T) {
	for _, dir := range goldenFolders(t, "generate.json") {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var golden struct{ Prompt, Greedy [][]int32 }
			data, err := os.ReadFile(filepath.Join(dir, "generate.json"))
			if err == nil {
				err = json.Unmarshal(data, &golden)
			}
			if err != nil {
				t.Fatal(err)
			}
			cp, err := checkpoint.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer cp.Close()
			eng := cpu.Open(0)
			defer eng.Close()
			for _, rows := range []int{1, len(golden.Prompt)} {
				for first := 0; first < len(golden.Prompt); first += rows {
					prompts, want := golden.Prompt[first:first+rows], golden.Greedy[first:first+rows]
					got := continueGreedily(t, eng, cp, prompts, want)
					for i := range got {
						if !slices.Equal(got[i], want[i]) {
							t.Errorf("%d rows: prompt %d continues as\n%v, want\n%v", rows, first+i, got[i], want[i])
						}
					}
				}
			}
		})
	}
}

// continueGreedily returns the prompts with as many tokens more as want has.
func continueGreedily(t *testing.T, eng engine.Engine, cp *checkpoint.Checkpoint, prompts, want [][]int32) [][]int32 {
	t.Helper()
	size, more := 0, 0
	got := make([][]int32, len(prompts))
	for i, p := range prompts {
		size, more = max(size, len(want[i])), max(more, len(want[i])-len(p))
		got[i] = slices.Clone(p)
	}
	dec, err := eng.Decoder(cp.Config(), cp, engine.DecodeOptions{Rows: len(prompts), MaxSize: size})
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	err = Continue(t.Context(), dec, prompts, ContinueOptions{MaxTokens: more}, func(row int, token int32) (bool, error) {
		got[row] = append(got[row], token)
		return len(got[row]) == len(want[row]), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}
