package convert

import "mlkv/internal/checkpoint"

// runningPooling merges as the MLKV authors' convert_to_mlkv.py does: the heads
// of each layer are averaged first, then, in ascending order, each further
// layer is averaged into the owner, so that later layers count more. The
// arithmetic is PyTorch's on a CPU, to the bit: float32 sums in its order, and
// rounding to the type of the checkpoint where a tensor of that type is made.
type runningPooling struct{}

func (runningPooling) pool(dst []float32, g group, from heads) error {
	next := make([]float32, len(dst))
	for i, layer := range g.layers {
		x, dtype, err := from(layer)
		if err != nil {
			return err
		}
		into := dst
		if i > 0 {
			into = next
		}
		rows := make([][]float32, g.count)
		for h := range rows {
			at := (g.head + h) * len(dst)
			rows[h] = x[at : at+len(dst)]
		}
		if g.count == 1 {
			copy(into, rows[0])
		} else {
			meanRows(into, rows)
			checkpoint.Round(into, dtype)
		}
		if i == 0 {
			continue
		}
		meanRows(dst, [][]float32{next, dst})
		if g.count == 1 {
			// Averaged heads are float32 tensors in the authors' code; others
			// keep the checkpoint's type.
			checkpoint.Round(dst, dtype)
		}
	}
	return nil
}

func (runningPooling) shares(g group) []share {
	out := make([]share, len(g.layers))
	weight := 1.0
	for i := len(g.layers) - 1; i >= 0; i-- {
		if i > 0 {
			weight /= 2
		}
		out[i] = share{g.layers[i], span(g.head, g.count), weight}
	}
	return out
}
