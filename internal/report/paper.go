package report

import (
	"path/filepath"
	"regexp"
	"strings"

	"mlkv/internal/model"
)

// paperRow is a converted model of the MLKV paper (arXiv 2406.09297, table 2):
// Pythia-160M with fewer owners and heads and a grown MLP.
type paperRow struct{ owners, kvHeads, intermediate int }

var paperRows = map[string]paperRow{
	"gqa-48":  {12, 4, 3584},
	"mlkv-48": {4, 12, 3584},
	"mqa-12":  {12, 1, 3777},
	"mlkv-12": {4, 3, 3777},
	"mlkv-6":  {6, 1, 3809},
	"mlkv-4":  {4, 1, 3819},
	"mlkv-2":  {2, 1, 3830},
	"mlkv-1":  {1, 1, 3835},
}

// paperName are the authors' names: faridlazuarda/pythia-160m-mlkv-6-b12-g2-v1.
var paperName = regexp.MustCompile(`^pythia-160m-((?:gqa|mqa|mlkv)-\d+)(?:-|$)`)

// publishedName is the paper's name of a model of the authors, or nothing.
func publishedName(model string) string {
	if m := paperName.FindStringSubmatch(filepath.Base(model)); m != nil {
		return strings.ToUpper(m[1])
	}
	return ""
}

// publishedShape knows the models of the authors and the Pythia suite, whose
// published result files do not describe them; nil for others.
func publishedShape(name string) *Shape {
	base := filepath.Base(name)
	if m := paperName.FindStringSubmatch(base); m != nil {
		row, ok := paperRows[m[1]]
		if !ok {
			return nil
		}
		c, err := model.Sized("pythia-160m")
		if err != nil {
			return nil
		}
		c.KVHeads, c.IntermediateSize = row.kvHeads, row.intermediate
		if c.Owner, err = model.ContiguousOwners(c.Layers, row.owners); err != nil {
			return nil
		}
		return shapeOf(c)
	}
	if c, ok := model.Named(base); ok {
		return shapeOf(c)
	}
	return nil
}

// shapeOf describes a model, with its cache at 16 bits an element.
func shapeOf(c model.Config) *Shape {
	return &Shape{
		Owners: c.Owner.Owners(), ValueOwners: c.ValueOwner.Owners(), KVHeads: c.KVHeads,
		Parameters: c.Parameters(), KVBytes: c.KVBytes(1, 1, 2),
	}
}
