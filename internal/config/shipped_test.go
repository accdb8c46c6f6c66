package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"mlkv/internal/model"
)

const shipped = "../../configs"

func TestShippedFilesLoad(t *testing.T) {
	found := 0
	err := filepath.WalkDir(shipped, func(path string, _ fs.DirEntry, err error) error {
		// base-model.yaml is the shape of a model, for mlkv init.
		if err != nil || filepath.Ext(path) != ".yaml" || filepath.Base(path) == "base-model.yaml" {
			return err
		}
		found++
		if _, err := Resolve(Sources{File: path}); err != nil {
			t.Errorf("%v", err)
		}
		return nil
	})
	if err != nil || found < 26 {
		t.Errorf("found %d files in %s: %v", found, shipped, err)
	}
}

// The KV cache in bytes a token at 16 bits for Pythia-160M, and the heads that
// make it, as table 2 of the MLKV paper has them.
func TestPaperRows(t *testing.T) {
	for _, row := range []struct {
		file, name    string
		layers, heads int
		bytes         int
	}{
		{"mha-144", "MHA-144", 12, 12, 36864},
		{"gqa-48", "GQA-48", 12, 4, 12288},
		{"mlkv-48", "MLKV-48", 4, 12, 12288},
		{"mqa-12", "MQA-12", 12, 1, 3072},
		{"mlkv-12", "MLKV-12", 4, 3, 3072},
		{"mlkv-6", "MLKV-6", 6, 1, 1536},
		{"mlkv-4", "MLKV-4", 4, 1, 1024},
		{"mlkv-2", "MLKV-2", 2, 1, 512},
		{"mlkv-1", "MLKV-1", 1, 1, 256},
		{"reproduce", "MLKV-6 (authors)", 6, 1, 1536},
	} {
		c, err := Resolve(Sources{File: filepath.Join(shipped, row.file+".yaml")})
		if err != nil {
			t.Error(err)
			continue
		}
		if c.Name != row.name || c.Convert.KVLayers != row.layers || c.Convert.KVHeads != row.heads {
			t.Errorf("%s.yaml: got %s with %d x %d, want %s with %d x %d", row.file,
				c.Name, c.Convert.KVLayers, c.Convert.KVHeads, row.name, row.layers, row.heads)
		}
		m, err := model.Sized("pythia-160m")
		if err != nil {
			t.Fatal(err)
		}
		m.KVHeads = c.Convert.KVHeads
		if m.Owner, err = model.ContiguousOwners(m.Layers, c.Convert.KVLayers); err != nil {
			t.Fatal(err)
		}
		if err := m.Validate(); err != nil {
			t.Errorf("%s.yaml: %v", row.file, err)
		}
		if got := m.KVBytes(1, 1, 2); got != row.bytes {
			t.Errorf("%s.yaml: %d bytes of KV cache a token, want %d", row.file, got, row.bytes)
		}
		if c.Uptrain.Steps != 102366 || c.Uptrain.Rows != 24 || c.Uptrain.LearningRate != 6e-4 || c.Uptrain.WarmupRatio != 0.2 {
			t.Errorf("%s.yaml: recipe %+v departs from the paper's", row.file, c.Uptrain)
		}
		if row.file != "reproduce" {
			testBestRow(t, row.file, c)
		}
		if want := filepath.Join("runs", row.file); row.file != "reproduce" && c.Work != want {
			t.Errorf("%s.yaml: work is %s, want %s", row.file, c.Work, want)
		}
	}
}

// testBestRow compares the row of configs/best with the paper's: the same heads
// and data, learnt from the base.
func testBestRow(t *testing.T, file string, paper Resolved) {
	best, err := Resolve(Sources{File: filepath.Join(shipped, "best", file+".yaml")})
	if err != nil {
		t.Error(err)
		return
	}
	if best.Convert.KVLayers != paper.Convert.KVLayers || best.Convert.KVHeads != paper.Convert.KVHeads ||
		best.Base != paper.Base || !slices.Equal(best.Data.Train, paper.Data.Train) || !strings.HasPrefix(best.Name, paper.Name) {
		t.Errorf("best/%s.yaml: %s of %s with %d x %d, on %v, departs from %s", file, best.Name, best.Base,
			best.Convert.KVLayers, best.Convert.KVHeads, best.Data.Train, paper.Name)
	}
	if best.Convert.Start != "absorb" || !slices.Equal(best.Convert.Calibration.Path, best.Data.Train) || best.Uptrain.Distill.Weight == 0 {
		t.Errorf("best/%s.yaml: start %s on %v, divergence of weight %g", file, best.Convert.Start, best.Convert.Calibration.Path, best.Uptrain.Distill.Weight)
	}
	if want := filepath.Join("runs", "best", file); best.Work != want {
		t.Errorf("best/%s.yaml: work is %s, want %s", file, best.Work, want)
	}
}

func TestReproduceIsTheAuthors(t *testing.T) {
	c, err := Resolve(Sources{File: filepath.Join(shipped, "reproduce.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	v := c.Convert
	if v.Pooling != "running" || v.Grow != "copy" || v.SharedKeyRotary != "before" || c.Data.Packing != "authors" {
		t.Errorf("got %+v, packing %s", v, c.Data.Packing)
	}
}

// reference.yaml holds every key, in the order of the schema, explained, with
// its default.
func TestReferenceIsComplete(t *testing.T) {
	path := filepath.Join(shipped, "reference.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), extendsKey+":") {
		t.Errorf("%s does not explain %s", path, extendsKey)
	}
	values, _, err := decode(path, data)
	if err != nil {
		t.Fatal(err)
	}
	def := Default()
	for _, f := range schema {
		v, ok := values[f.key]
		want := f.get(&def)
		switch {
		case !ok:
			t.Errorf("%s lacks %s", path, f.key)
		case reflect.ValueOf(want).Kind() == reflect.Slice && reflect.ValueOf(want).Len() == 0:
			if reflect.ValueOf(v.v).Len() != 0 {
				t.Errorf("%s: %s is %v, the default is empty", v.from, f.key, v.v)
			}
		case !reflect.DeepEqual(v.v, want):
			t.Errorf("%s: %s is %v, the default is %v", v.from, f.key, v.v, want)
		}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	order := explained(t, doc.Content[0], "")
	if !slices.Equal(order, Keys()) {
		t.Errorf("order of keys is\n%v\nwant that of the schema\n%v", order, Keys())
	}
}

// explained lists the leaves of a mapping and reports those without a comment
// of three words at least.
func explained(t *testing.T, n *yaml.Node, prefix string) []string {
	var out []string
	for i := 0; i < len(n.Content); i += 2 {
		name, v := n.Content[i], n.Content[i+1]
		key := prefix + name.Value
		if len(strings.Fields(strings.ReplaceAll(name.HeadComment, "#", ""))) < 3 {
			t.Errorf("reference.yaml:%d: %s is not explained", name.Line, key)
		}
		if v.Kind == yaml.MappingNode {
			out = append(out, explained(t, v, key+".")...)
			continue
		}
		out = append(out, key)
	}
	return out
}
