package cuda

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// TestFusedOperations pins how many operations each kind of model runs: a rule
// that no longer finds its pattern costs time without failing anything else.
func TestFusedOperations(t *testing.T) {
	for name, want := range map[string]string{
		// Three layers of: norms; qkv, rotary, attention, output; MLP in, gelu, MLP
		// out; and backward the same with two products for each. The products of both
		// outputs are one, whose biases are added up before.
		"plain": "attention 3 attentionGrad 3 columnSum 3 embedding 1 embeddingGrad 1 gelu 3 geluGrad 3 head 1 " +
			"norms 4 normsGrad 4 product 27 rotary 6 sum 3",
		"shared": "attention 3 attentionGrad 3 columnSum 3 embedding 1 embeddingGrad 1 gelu 3 geluGrad 3 head 1 " +
			"norms 4 normsGrad 4 product 27 rotary 6 sum 3",
		// At a size of 64 attention's derivative turns gradients back and sums those of
		// the biases.
		"head size 64": "attention 3 attentionGrad 3 embedding 1 embeddingGrad 1 gelu 3 geluGrad 3 head 1 " +
			"norms 4 normsGrad 4 product 27 rotary 3 sum 3",
		"shared, head size 64": "attention 3 attentionGrad 3 embedding 1 embeddingGrad 1 gelu 3 geluGrad 3 head 1 " +
			"norms 4 normsGrad 4 product 27 rotary 3 sum 3",
		// Each norm has its own input, so that its gradient is joined alone.
		"sequential": "attention 3 attentionGrad 3 columnSum 3 embedding 1 embeddingGrad 1 gelu 3 geluGrad 3 head 1 " +
			"norms 7 normsGrad 7 product 36 rotary 6",
	} {
		p := compileFor(t, testModels(t)[name], graph.Options{Rows: 2, Length: 6, Output: graph.Gradients}, "fused")
		count := map[string]int{}
		for _, o := range p.ops {
			count[strings.TrimPrefix(fmt.Sprintf("%T", o.kind), "cuda.")]++
		}
		var list []string
		for _, k := range slices.Sorted(maps.Keys(count)) {
			list = append(list, fmt.Sprint(k, " ", count[k]))
		}
		if got := strings.Join(list, " "); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

// TestPlacesDoNotOverlap: matrices that are needed at the same time lie apart.
func TestPlacesDoNotOverlap(t *testing.T) {
	for name, cfg := range testModels(t) {
		p := compileFor(t, cfg, graph.Options{Rows: 2, Length: 6, Output: graph.Gradients}, "fused")
		needScratch(p, sizes{2}, gpu.Info{Major: 9, SMs: 132})
		a := place(p, sizes{2})
		first, until := map[*matrix]int{}, map[*matrix]int{}
		for i, o := range p.ops {
			for _, m := range slices.Concat(o.in, o.out, o.temp) {
				root, _ := m.root()
				if _, seen := first[root]; !seen {
					first[root] = i
				}
				until[root] = i
			}
		}
		for x, at := range a.offset {
			end := at + (sizes{2}).bytes(x)
			if end > a.size || at%alignment != 0 {
				t.Errorf("%s: %v lies at %d to %d of %d", name, x, at, end, a.size)
			}
			for y, bt := range a.offset {
				if x != y && first[x] <= until[y] && first[y] <= until[x] && at < bt+(sizes{2}).bytes(y) && bt < end {
					t.Errorf("%s: %v at %d and %v at %d overlap", name, x, at, y, bt)
				}
			}
		}
	}
}

// TestScratchOfAttentionsDerivative: room for sums of dq is planned where one kernel
// adds them up, and for those of dk and dv between the query heads of a key head.
func TestScratchOfAttentionsDerivative(t *testing.T) {
	hopper, ampere := gpu.Info{Major: 9, SMs: 132}, gpu.Info{Major: 8, SMs: 108}
	const rows, length = 2, 130 // two tiles of queries each
	for _, c := range []struct {
		name     string
		headSize int
		kvHeads  int
		s        sizes
		chip     gpu.Info
		want     []int // elements
	}{
		{"one kernel", 64, 4, sizes{2}, hopper, []int{8 * 130, 8 * 2 * 128 * 64, 8 * 2}},
		{"shared keys", 64, 1, sizes{2}, hopper, []int{8 * 130, 8 * 2 * 128 * 64, 8 * 2, 132 * 2 * 256 * 64}},
		{"other size", 32, 4, sizes{2}, hopper, []int{8 * 130}},
		{"float32", 64, 4, sizes{4}, hopper, []int{8 * 130}},
		{"other chip", 64, 4, sizes{2}, ampere, []int{8 * 130}},
	} {
		cfg := model.Plain(40, 4*c.headSize, 1, 4)
		cfg.KVHeads = c.kvHeads
		p := compileFor(t, cfg, graph.Options{Rows: rows, Length: length, Output: graph.Gradients}, "apart")
		needScratch(p, c.s, c.chip)
		for _, o := range p.ops {
			k, ok := o.kind.(attentionGrad)
			if !ok {
				continue
			}
			if k.bias {
				o.temp = slices.Delete(o.temp, 1, 2)
			}
			var got []int
			for _, m := range o.temp {
				got = append(got, m.size())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: scratch of %v elements, want %v", c.name, got, c.want)
			}
		}
	}
}
