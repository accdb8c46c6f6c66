//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"slices"
	"testing"

	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
)

// TestPreparation: what is compiled and tuned before a run is what the operations
// of every kind of program use, beside a teacher too. It needs no GPU.
func TestPreparation(t *testing.T) {
	const rows, length = 2, 64
	d := testDistill(512, 320, 4)
	for name, cfg := range gpuModels(t) {
		for _, teach := range []bool{false, true} {
			o := graph.Options{Rows: rows, Length: length, Output: graph.Gradients}
			if teach {
				o.Distill = &graph.Distill{Teacher: d.Teacher, Weight: d.Weight, Temperature: d.Temperature}
			}
			p := compileFor(t, cfg, o, "fused")
			needScratch(p, sizes{2}, absentInfo)
			x := &executor{device: &device{elem: gpu.BFloat16}, p: p}
			var products []gpu.Product
			for _, op := range p.ops {
				products = append(products, x.products(op)...)
				if _, copies := op.kind.(duplicate); len(x.variants(op)) == 0 && len(x.products(op)) == 0 && !copies {
					t.Errorf("%s: nothing is prepared for %v", name, op)
				}
			}
			student := x.logitProduct(rows*length, cfg.HiddenSize, cfg.VocabSize)
			teacher := x.logitProduct(rows*length, d.Teacher.HiddenSize, cfg.VocabSize)
			if !slices.Contains(products, student) {
				t.Errorf("%s: the products lack the logits %v", name, student)
			}
			if teach && !slices.Contains(products, teacher) {
				t.Errorf("%s: the products lack the teacher's logits %v", name, teacher)
			}
		}
	}
}
