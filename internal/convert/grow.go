package convert

// growth widens an MLP by repeating its neurons in order, the first one again
// after the last.
type growth interface {
	// scale is what the output weights of a neuron are multiplied by when the
	// grown MLP holds it copies times.
	scale(copies int) float32
}

// growths are the known ways of growing by their names.
var growths = map[string]growth{
	"split": splitGrowth{},
	"copy":  copyGrowth{},
	"none":  copyGrowth{}, // adds no neuron, so that there is nothing to scale
}

// splitGrowth shares a neuron's output weights among its copies, so that the
// function stays as it is.
type splitGrowth struct{}

func (splitGrowth) scale(copies int) float32 { return 1 / float32(copies) }

// copyGrowth copies neurons whole, as the MLKV authors' convert_to_mlkv.py
// does: what a copied neuron adds to the output doubles.
type copyGrowth struct{}

func (copyGrowth) scale(int) float32 { return 1 }

// growRows repeats rows of a matrix, or elements of a bias, from the first on
// until there are want of them.
func growRows(x []float32, have, want int) []float32 {
	row := len(x) / have
	out := make([]float32, want*row)
	for at := 0; at < len(out); at += len(x) {
		copy(out[at:], x)
	}
	return out
}

// growColumns repeats the columns of a matrix of have columns until there are
// want of them, and scales each by the number of its copies.
func growColumns(x []float32, have, want int, g growth) []float32 {
	scale := make([]float32, have)
	for j := range scale {
		scale[j] = g.scale((want - j + have - 1) / have)
	}
	rows := len(x) / have
	out := make([]float32, rows*want)
	for i := range rows {
		from, to := x[i*have:(i+1)*have], out[i*want:(i+1)*want]
		for j := range to {
			k := j % have
			to[j] = from[k] * scale[k]
		}
	}
	return out
}
