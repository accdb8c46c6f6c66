package ui

import (
	"encoding/csv"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

func sample() *Table {
	t := NewTable("name", "parameters", "loss", "note")
	t.Row("MHA-144", Integer(162322944), Fixed(3.3321, 3), "the base | control")
	t.Row("größer", Integer(7), nil, nil)
	t.Row("MLKV-6", Integer(0), Fixed(math.NaN(), 3))
	return t
}

func TestTableFormats(t *testing.T) {
	for format, want := range map[string]string{
		"text": `
name      parameters   loss  note
MHA-144  162,322,944  3.332  the base | control
größer             7      -  -
MLKV-6             0      -  -
`,
		"markdown": `
| name    |  parameters |  loss | note                |
| ------- | ----------: | ----: | ------------------- |
| MHA-144 | 162,322,944 | 3.332 | the base \| control |
| größer  |           7 |     - | -                   |
| MLKV-6  |           0 |     - | -                   |
`,
		"csv": `
name,parameters,loss,note
MHA-144,162322944,3.3321,the base | control
größer,7,,
MLKV-6,0,,
`,
		"json": `
[
  {"name": "MHA-144", "parameters": 162322944, "loss": 3.3321, "note": "the base | control"},
  {"name": "größer", "parameters": 7, "loss": null, "note": null},
  {"name": "MLKV-6", "parameters": 0, "loss": null, "note": null}
]
`,
	} {
		var b strings.Builder
		if err := sample().Format(&b, format); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if got := b.String(); got != want[1:] {
			t.Errorf("%s: got\n%s\nwant\n%s", format, got, want[1:])
		}
	}
}

func TestTableHTML(t *testing.T) {
	table := NewTable("name", "loss")
	table.Row("<b> & \"c\"", Fixed(3.3321, 2))
	table.Row("d", nil)
	var b strings.Builder
	if err := table.HTML(&b); err != nil {
		t.Fatal(err)
	}
	want := `<table>
<thead>
<tr><th>name</th><th class="n">loss</th></tr>
</thead>
<tbody>
<tr><td data-v="&lt;b&gt; &amp; &#34;c&#34;">&lt;b&gt; &amp; &#34;c&#34;</td><td class="n" data-v="3.3321">3.33</td></tr>
<tr><td data-v="d">d</td><td class="n">-</td></tr>
</tbody>
</table>
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

func TestTableReadsBack(t *testing.T) {
	x := 0.1
	x += 0.2
	tab := NewTable("a,b", "c\"d")
	tab.Row("x,\"y\"\nz", x)
	tab.Row(time.Second, true)
	var c, j strings.Builder
	if err := tab.CSV(&c); err != nil {
		t.Fatal(err)
	}
	records, err := csv.NewReader(strings.NewReader(c.String())).ReadAll()
	if err != nil || records[1][0] != "x,\"y\"\nz" || records[1][1] != "0.30000000000000004" || records[2][0] != "1s" {
		t.Errorf("CSV read back as %q, %v", records, err)
	}
	if err := tab.JSON(&j); err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal([]byte(j.String()), &rows); err != nil || rows[0]["c\"d"] != x || rows[1]["c\"d"] != true {
		t.Errorf("JSON read back as %v, %v", rows, err)
	}
}

func TestTableRefuses(t *testing.T) {
	if err := sample().Format(os.Stderr, "xml"); ExitCode(err) != ExitUsage {
		t.Errorf("format xml: got %v, want a usage error", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a row of too many cells passed")
		}
	}()
	NewTable("a").Row(1, 2)
}
