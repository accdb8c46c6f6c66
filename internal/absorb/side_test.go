package absorb

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/model"
)

// TestSeparateOwners: a conversion to one map for keys and another for values is
// made of the conversions to either, to the bit.
func TestSeparateOwners(t *testing.T) {
	maps := []struct{ source, keys, values string }{
		{"0_1_2_3", "0_0_2_2", "0_1_1_3"},
		{"0_1_2_3", "0_0_0_3", "0_0_2_2"},
		{"0_1_2_3", "0_0_0_0", "0_1_2_3"},
		{"0_1_2_3", "0_1_2_3", "0_1_1_1"},
		{"0_1_2_3", "0_1_0_1", "0_0_0_0"},
		{"0_1_1_3", "0_1_1_1", "0_0_0_3"},
	}
	for _, c := range maps {
		for _, heads := range []int{1, 2, 4} {
			for _, rotary := range []float64{0.25, 1} {
				for _, weighted := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s to %s and %s x %d, rotary %g, weighted %v", c.source, c.keys, c.values, heads, rotary, weighted), func(t *testing.T) {
						src := shared(t, small(rotary, true), c.source, 4)
						testSeparateOwners(t, src, c.keys, c.values, heads, Options{Weighted: weighted})
					})
				}
			}
		}
	}
}

func testSeparateOwners(t *testing.T, src model.Config, keys, values string, heads int, o Options) {
	w, calibration := random(src, 41), rows(src, 4, 40, 42)
	ofKeys, ofValues := shared(t, src, keys, heads), shared(t, src, values, heads)
	both := ofKeys.WithOwners(ofKeys.Owner, ofValues.Owner)
	k, v, s := solved(t, src, ofKeys, w, calibration, o), solved(t, src, ofValues, w, calibration, o), solved(t, src, both, w, calibration, o)

	got, fromKeys, fromValues := made(t, s, w), made(t, k, w), made(t, v, w)
	for _, p := range both.Params() {
		want := w
		if p.Layer >= 0 {
			switch module, _ := split(p); module {
			case model.Key, model.Query:
				want = fromKeys
			case model.Value, model.AttentionOut:
				want = fromValues
			}
		}
		if !slices.Equal(got[p.Name], want[p.Name]) {
			t.Errorf("%s is another than with one map", p.Name)
		}
	}
	testSeparateReport(t, s.Report(), k.Report(), v.Report())
}

// testSeparateReport: the report on separate maps says of keys what that on their
// map says, and of values likewise.
func testSeparateReport(t *testing.T, got, ofKeys, ofValues Report) {
	t.Helper()
	var keys, values []HeadReport
	for _, h := range got.Heads {
		if h.Key != nil {
			keys = append(keys, HeadReport{Layer: h.Layer, Head: h.Head, Sources: h.Sources, Key: h.Key, KeyRotary: h.KeyRotary})
		}
		if h.Value != nil {
			values = append(values, HeadReport{Layer: h.Layer, Head: h.Head, Sources: h.Sources, Value: h.Value})
		}
	}
	for i := range ofKeys.Heads {
		ofKeys.Heads[i].Value = nil
	}
	for i := range ofValues.Heads {
		ofValues.Heads[i].Key, ofValues.Heads[i].KeyRotary = nil, 0
	}
	if !reflect.DeepEqual(keys, ofKeys.Heads) || !reflect.DeepEqual(values, ofValues.Heads) {
		t.Errorf("heads of keys %+v and of values %+v, expected %+v and %+v", keys, values, ofKeys.Heads, ofValues.Heads)
	}
	into := func(r Report, module string) (layers []int) {
		for _, l := range r.Layers {
			if slices.Contains(l.Into, module) {
				layers = append(layers, l.Layer)
			}
		}
		return layers
	}
	for module, of := range map[string]Report{model.Query: ofKeys, model.AttentionOut: ofValues} {
		if got, want := into(got, module), into(of, module); !slices.Equal(got, want) {
			t.Errorf("layers %v fold into %s, expected %v", got, module, want)
		}
	}
}

// TestSeparateMoments: only products that some side's regressions read are summed.
func TestSeparateMoments(t *testing.T) {
	src := small(0.25, true)
	dst := shared(t, src, "0_0_2_3", 4)
	dst = dst.WithOwners(dst.Owner, shared(t, src, "0_1_1_1", 4).Owner)
	m := newMoments(src, dst, Options{Weighted: true})
	var got []string
	for l := range src.Layers {
		for owner := range src.Layers {
			if m.cross[l][owner] != nil {
				got = append(got, fmt.Sprintf("%d by %d", l, owner))
			}
		}
	}
	if got := strings.Join(got, ", "); got != "0 by 0, 1 by 0, 1 by 1, 2 by 1, 3 by 1" {
		t.Errorf("products of inputs %s", got)
	}
	if len(m.keys) != 2 || len(m.values) != 3 || len(m.queries) != 2 {
		t.Errorf("sums of the keys of %d layers, the values of %d and the queries of %d, expected 2, 3 and 2", len(m.keys), len(m.values), len(m.queries))
	}
}

// TestSeparateIdentity: maps that share nothing need no fit, and change nothing.
func TestSeparateIdentity(t *testing.T) {
	src := small(0.25, true)
	w := random(src, 43)
	dst := src.WithOwners(src.Owner, slices.Clone(src.Owner))
	if Shares(src, dst) {
		t.Error("a model that shares nothing needs a fit")
	}
	s := solved(t, src, dst, w, rows(src, 4, 40, 44), Options{})
	for _, p := range dst.Params() {
		if s.Changes(p) {
			t.Errorf("%s changes", p.Name)
		}
	}
	for _, c := range []struct{ keys, values string }{{"0_0_2_3", "0_1_2_3"}, {"0_1_2_3", "0_0_2_3"}} {
		dst := src.WithOwners(shared(t, src, c.keys, 4).Owner, shared(t, src, c.values, 4).Owner)
		if !Shares(src, dst) {
			t.Errorf("keys of %s and values of %s need no fit", c.keys, c.values)
		}
	}
}

// TestSeparateSource: heads of a model with separate owners that are images of one
// another become one, and the function stays.
func TestSeparateSource(t *testing.T) {
	for _, heads := range []int{1, 2} {
		for _, weighted := range []bool{false, true} {
			src := shared(t, small(0.25, true), "0_1_2_2", 4)
			src = src.WithOwners(src.Owner, shared(t, src, "0_0_2_3", 4).Owner)
			dst := src
			dst.KVHeads = heads
			w := random(src, 45)
			share(src, dst, w, 46)
			got := made(t, solved(t, src, dst, w, rows(src, 8, 40, 47), Options{Weighted: weighted}), w)
			tokens := rows(src, 1, 40, 48)[0]
			if d := deviation(logits(t, dst, got, tokens), logits(t, src, w, tokens)); d > 1e-4 {
				t.Errorf("%d heads, weighted %v: logits deviate by %g of the greatest", heads, weighted, d)
			}
		}
	}
}
