package report

import (
	"cmp"
	"math"
	"path/filepath"
	"slices"
)

// Estimate is a figure with its standard error, NaN where it is not known.
type Estimate struct{ Value, StdErr float64 }

// unknown is a figure that no file gave.
var unknown = Estimate{math.NaN(), math.NaN()}

// Known reports whether there is a figure.
func (e Estimate) Known() bool { return !math.IsNaN(e.Value) }

// Shape is what a model's cache and size follow from.
type Shape struct {
	Owners      int // layers that own keys, and values too unless ValueOwners counts those
	ValueOwners int // layers that own values, where these are not the owners of keys
	KVHeads     int // key/value heads in such a layer
	Parameters  int
	KVBytes     int // key/value cache of one token at 16 bits an element
}

// Point is a line of metrics.jsonl.
type Point struct {
	Step    int
	Loss    float64 // cross-entropy of training, NaN in a held-out record
	Heldout float64 // NaN in a training record
}

// Row is one model.
type Row struct {
	Name      string
	Published bool   // of the second series
	Shape     *Shape // nil where not known
	// Accuracy is a share from 0 to 1, by task.
	Accuracy map[string]Estimate
	// Heldout is the loss on held-out text in nats a token, Converted the one
	// right after conversion, before any training.
	Heldout, Converted Estimate
	BitsPerByte        Estimate
	// HeldoutTokens and ConvertedTokens say on how many tokens the two losses
	// were measured; 0 where not known.
	HeldoutTokens, ConvertedTokens int
	Curve                          []Point // of the training run
	Measured                       []Measurement
}

func newRow(name string) *Row {
	return &Row{Name: name, Accuracy: map[string]Estimate{}, Heldout: unknown, Converted: unknown, BitsPerByte: unknown}
}

// series names what the row belongs to.
func (r *Row) series() string {
	if r.Published {
		return "published"
	}
	return "own"
}

// Average is the mean accuracy over tasks, unknown unless all are known. The
// standard error takes the tasks as independent.
func (r *Row) Average(tasks []string) Estimate {
	sum, variance := 0.0, 0.0
	for _, t := range tasks {
		e, ok := r.Accuracy[t]
		if !ok {
			return unknown
		}
		sum += e.Value
		variance += e.StdErr * e.StdErr
	}
	if len(tasks) == 0 {
		return unknown
	}
	n := float64(len(tasks))
	return Estimate{sum / n, math.Sqrt(variance) / n}
}

// averaged are the tasks among the wanted ones that any row has: what an
// average can be taken of.
func averaged(rows []*Row, wanted []string) []string {
	return slices.DeleteFunc(slices.Clone(wanted), func(t string) bool {
		return !slices.ContainsFunc(rows, func(r *Row) bool { _, ok := r.Accuracy[t]; return ok })
	})
}

// sortRows orders rows from the largest cache to the smallest, those of unknown
// cache last; of one size, more owners come first, and a row before its
// published counterpart.
func sortRows(rows []*Row) {
	shape := func(r *Row) Shape {
		if r.Shape == nil {
			return Shape{KVBytes: -1}
		}
		return *r.Shape
	}
	slices.SortStableFunc(rows, func(a, b *Row) int {
		x, y := shape(a), shape(b)
		return cmp.Or(cmp.Compare(y.KVBytes, x.KVBytes), cmp.Compare(y.Owners, x.Owners),
			cmp.Compare(a.series(), b.series()), cmp.Compare(a.Name, b.Name))
	})
}

// workFolder is the folder that holds the stages of a run (converted, uptrain,
// eval), for such a stage or the trained model within it; other folders stand
// for themselves.
func workFolder(dir string) string {
	dir = filepath.Clean(dir)
	if filepath.Base(dir) == "model" {
		dir = filepath.Dir(dir)
	}
	switch filepath.Base(dir) {
	case "converted", "uptrain", "eval":
		dir = filepath.Dir(dir)
	}
	return dir
}
