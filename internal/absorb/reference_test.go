package absorb

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
)

// TestReference compares logits with those of tools/absorb_reference.py, which
// also made the models, for every layout that it names: OWNERSxHEADS.
func TestReference(t *testing.T) {
	folders, err := filepath.Glob("testdata/reference/*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no models in testdata/reference: %v", err)
	}
	for _, folder := range folders {
		m, err := checkpoint.Open(folder)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		f, err := checkpoint.OpenSafetensors(filepath.Join(folder, "reference.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		calibration, length := tokens(t, f, "calibration")
		input, _ := tokens(t, f, "input_ids")
		var rows [][]int32
		for at := 0; at < len(calibration); at += length {
			rows = append(rows, calibration[at:at+length])
		}
		w := weights{}
		for _, p := range m.Config().Params() {
			if w[p.Name], err = m.Float32(p.Name); err != nil {
				t.Fatal(err)
			}
		}
		layouts := 0
		for _, name := range f.Names() {
			owners, heads, ok := strings.Cut(name, "x")
			if !ok {
				continue
			}
			layouts++
			n, err := strconv.Atoi(heads)
			if err != nil {
				t.Fatal(err)
			}
			want, err := f.Float32(name)
			if err != nil {
				t.Fatal(err)
			}
			dst := shared(t, m.Config(), owners, n)
			got, _ := absorbed(t, m.Config(), dst, w, rows)
			if d := deviation(logits(t, dst, got, input), want); d > 1e-4 {
				t.Errorf("%s, %s: logits deviate by %g of the greatest", folder, name, d)
			}
		}
		if layouts < 10 {
			t.Errorf("%s names %d layouts, expected 10 or more", folder, layouts)
		}
	}
}

func tokens(t *testing.T, f *checkpoint.File, name string) (ids []int32, length int) {
	t.Helper()
	x, err := f.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	if ids, err = x.Int32(); err != nil {
		t.Fatal(err)
	}
	return ids, x.Shape[len(x.Shape)-1]
}
