package cuda

import (
	"fmt"

	"mlkv/internal/model"
)

// lanes is what the kernels want every width to be a multiple of: they take
// eight elements at a time.
const lanes = 8

// tile is the width of which the products want a multiple, where that costs
// little: on an H100 products 3816 wide reach 700 TFLOP/s, those of 3072 840.
const tile = 128

// pad widens the inner layers of a model. Neurons that are added have weight and
// bias 0; so have their results (the GELU of 0 is 0) and their gradients, and
// AdamW leaves them at 0. The converter grows MLPs to sizes such as 3809.
func pad(cfg model.Config) model.Config {
	cfg.IntermediateSize, cfg.KVIntermediateSize = padWidth(cfg.IntermediateSize), padWidth(cfg.KVIntermediateSize)
	return cfg
}

// padWidth is the next multiple of tile, or of lanes where that would add more
// than a fiftieth.
func padWidth(n int) int {
	if wide := roundTo(n, tile); wide-n <= n/50 {
		return wide
	}
	return roundTo(n, lanes)
}

func roundTo(n, step int) int { return (n + step - 1) / step * step }

// widen copies a parameter into the shape that it has in a padded model; narrow
// copies it back. Equal shapes need no copy.
func widen(data []float32, from, to model.Param) ([]float32, error) {
	if len(data) != from.Size() {
		return nil, fmt.Errorf("parameter %s: expected %d elements, found %d", from.Name, from.Size(), len(data))
	}
	if from.Size() == to.Size() {
		return data, nil
	}
	out := make([]float32, to.Size())
	copyRows(out, to, data, from)
	return out, nil
}

func narrow(dst []float32, to model.Param, data []float32, from model.Param) {
	copyRows(dst, to, data, from)
}

// copyRows copies the rows and columns that two shapes have in common.
func copyRows(dst []float32, to model.Param, src []float32, from model.Param) {
	toRows, toCols := rowsOf(to)
	fromRows, fromCols := rowsOf(from)
	n := min(toCols, fromCols)
	for i := range min(toRows, fromRows) {
		copy(dst[i*toCols:i*toCols+n], src[i*fromCols:])
	}
}

func rowsOf(p model.Param) (rows, cols int) {
	if len(p.Shape) == 1 {
		return 1, p.Shape[0]
	}
	return p.Shape[0], p.Shape[1]
}
