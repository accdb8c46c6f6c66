package convert

import "mlkv/internal/checkpoint"

// heads gives the key or value projection, weight or bias, of a layer that owns
// one in the source: its heads one after the other, and the type they are
// stored in.
type heads func(layer int) ([]float32, checkpoint.DType, error)

// pooling makes one head out of a group.
type pooling interface {
	// pool fills dst, one head of len(dst) elements.
	pool(dst []float32, g group, from heads) error
	// shares tells how much each head counts.
	shares(g group) []share
}

// share is the weight of the heads of one layer in a pooled head.
type share struct {
	layer  int
	heads  []int
	weight float64 // of all of them together
}

// poolings are the known ways of pooling by their names.
var poolings = map[string]pooling{
	"mean":    meanPooling{},
	"running": runningPooling{},
	"first":   firstPooling{},
}

// span lists n integers from first on.
func span(first, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = first + i
	}
	return out
}
