package eval

import (
	"math"
	"testing"
)

// The expected texts are what Python 3.11 prints for the same values.
func TestPyJSON(t *testing.T) {
	value := Object{
		{"text", "a \"b\" \\ / \n\r\t\b\f\x01\x7f é 世 🎉 \u2028 <&>"},
		{"numbers", []any{0, -3, 1.0, 0.1, 1e-5, 1e16, 1e22, 123456789.125, -0.0001, math.Inf(-1)}},
		{"none", nil}, {"flags", []any{true, false}},
		{"empty", []any{}}, {"nothing", Object{}}, {"words", []string{"x", "y"}},
	}
	for _, c := range []struct {
		p    pyJSON
		want string
	}{
		{pyJSON{ASCII: true}, `{"text": "a \"b\" \\ / \n\r\t\b\f\u0001\u007f \u00e9 \u4e16 \ud83c\udf89 \u2028 <&>", ` +
			`"numbers": [0, -3, 1.0, 0.1, 1e-05, 1e+16, 1e+22, 123456789.125, -0.0001, -Infinity], ` +
			`"none": null, "flags": [true, false], "empty": [], "nothing": {}, "words": ["x", "y"]}`},
		{pyJSON{Indent: 2}, "{\n  \"text\": \"a \\\"b\\\" \\\\ / \\n\\r\\t\\b\\f\\u0001\x7f é 世 🎉 \u2028 <&>\",\n" +
			"  \"numbers\": [\n    0,\n    -3,\n    1.0,\n    0.1,\n    1e-05,\n    1e+16,\n    1e+22,\n    123456789.125,\n    -0.0001,\n    -Infinity\n  ],\n" +
			"  \"none\": null,\n  \"flags\": [\n    true,\n    false\n  ],\n  \"empty\": [],\n  \"nothing\": {},\n  \"words\": [\n    \"x\",\n    \"y\"\n  ]\n}"},
	} {
		got, err := c.p.dump(value)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != c.want {
			t.Errorf("%+v:\n%s\nwant\n%s", c.p, got, c.want)
		}
	}
}

// random.Random(42) and random.Random(7) of Python 3.11.
func TestPyRandom(t *testing.T) {
	r := newPyRandom(42)
	for _, want := range []float64{0.6394267984578837, 0.025010755222666936, 0.27502931836911926} {
		if got := r.float64(); got != want {
			t.Errorf("random() = %s, want %s", pyFloat(got), pyFloat(want))
		}
	}
	list := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	newPyRandom(7).shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for i, want := range []int{8, 3, 1, 4, 7, 0, 9, 6, 2, 5} {
		if list[i] != want {
			t.Fatalf("shuffle gave %v", list)
		}
	}
}
