package convert

import "mlkv/internal/checkpoint"

// meanPooling averages all heads of a group with equal weights, as section 3 of
// the paper says. A head that already stands for several layers or heads
// counts as many times, so that converting in two steps gives what one gives.
// Sums are in float64.
type meanPooling struct{}

func (meanPooling) pool(dst []float32, g group, from heads) error {
	sum := make([]float64, len(dst))
	total := 0
	for i, layer := range g.layers {
		x, _, err := from(layer)
		if err != nil {
			return err
		}
		weight := float64(g.served[i])
		for h := g.head; h < g.head+g.count; h++ {
			head := x[h*len(dst) : (h+1)*len(dst)]
			checkpoint.Parallel(len(dst), func(lo, hi int) {
				for e := lo; e < hi; e++ {
					sum[e] += weight * float64(head[e])
				}
			})
		}
		total += g.served[i] * g.count
	}
	for e := range dst {
		dst[e] = float32(sum[e] / float64(total))
	}
	return nil
}

func (meanPooling) shares(g group) []share {
	total := 0
	for _, n := range g.served {
		total += n
	}
	out := make([]share, len(g.layers))
	for i, layer := range g.layers {
		out[i] = share{layer, span(g.head, g.count), float64(g.served[i]) / float64(total)}
	}
	return out
}
