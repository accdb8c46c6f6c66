package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/checkpoint/fresh"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

func run(t *testing.T, o Options) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := Run(context.Background(), o, ui.Streams{In: strings.NewReader(""), Out: &out, Err: new(bytes.Buffer), Width: 80})
	return out.String(), err
}

func folder(t *testing.T) string {
	t.Helper()
	return written(t, shared(model.OwnerMap{0, 0, 2, 0, 2, 5}, nil))
}

func shared(keys, values model.OwnerMap) model.Config {
	cfg := model.Plain(50, 96, 6, 12)
	cfg.KVHeads = 4
	return cfg.WithOwners(keys, values)
}

func written(t *testing.T, cfg model.Config) string {
	t.Helper()
	dir := t.TempDir()
	if err := checkpoint.Write(dir, cfg, fresh.New(cfg, 1), checkpoint.WriteOptions{DType: checkpoint.BF16}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestText(t *testing.T) {
	got, err := run(t, Options{Dir: folder(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"bfloat16", "6 x 12 x 8 = hidden 96", "3 of 6 layers own 4 of 12 heads",
		"  layer 0 ●\n  layer 1 ○ 0\n  layer 2   ●\n  layer 3 ○ 0\n  layer 4   ○ 2\n  layer 5     ●\n",
		"2048 x 256",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the output lacks %q:\n%s", want, got)
		}
	}
}

func TestJSON(t *testing.T) {
	dir := folder(t)
	text, err := run(t, Options{Dir: dir, JSON: true, Batch: []int{3}, Length: 10})
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, `"value_`) {
		t.Errorf("values are shown apart from keys: %s", text)
	}
	sum := 0
	for _, n := range r.ByPart {
		sum += n
	}
	if sum != r.Parameters {
		t.Errorf("the parts hold %d parameters, the model %d", sum, r.Parameters)
	}
	want := map[string][3]int{ // layers, heads, bytes a token
		"this model": {3, 4, 3 * 4 * 8 * 2 * 2}, "MHA": {6, 12, 6 * 12 * 8 * 2 * 2}, "GQA": {6, 4, 6 * 4 * 8 * 2 * 2}, "MQA": {6, 1, 6 * 8 * 2 * 2},
	}
	for _, c := range r.Cache {
		if w := want[c.Name]; w != [3]int{c.KVLayers, c.KVHeads, c.BytesPerToken} || c.Bytes[3] != 30*c.BytesPerToken {
			t.Errorf("%+v, expected %v", c, w)
		}
		delete(want, c.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
}

// TestSeparateOwners pins what is printed where values have owners of their own.
func TestSeparateOwners(t *testing.T) {
	dir := written(t, shared(model.OwnerMap{0, 0, 2, 2, 2, 0}, model.OwnerMap{0, 1, 1, 1, 4, 4}))
	got, err := run(t, Options{Dir: dir, Batch: []int{1}, Length: 16})
	if err != nil {
		t.Fatal(err)
	}
	const owners = `
key/value sharing          2 of 6 layers own keys, 3 values, of 4 of 12 heads; keys shared after rotary

owner map (● owns keys, ○ attends to them)
  layer 0 ●
  layer 1 ○ 0
  layer 2   ●
  layer 3   ○ 2
  layer 4   ○ 2
  layer 5 ○ 0

owner map (● owns values, ○ attends to them)
  layer 0 ●
  layer 1   ●
  layer 2   ○ 1
  layer 3   ○ 1
  layer 4     ●
  layer 5     ○ 4

parameters`
	const cache = `
KV cache at 16 bits  layers  heads  bytes a token  16 x 1
this model              2+3      4            320  5.00 KiB
MHA                       6     12          2,304  36.0 KiB
GQA                       6      4            768  12.0 KiB
MQA                       6      1            192  3.00 KiB
`
	for _, want := range []string{owners, cache} {
		if !strings.Contains(got, want) {
			t.Errorf("expected %s\nfound %s", want, got)
		}
	}

	text, err := run(t, Options{Dir: dir, JSON: true})
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if r.LayerMap != "0_0_2_2_2_0" || r.ValueLayerMap != "0_1_1_1_4_4" || r.KVLayers != 2 || r.ValueKVLayers != 3 {
		t.Errorf("keys of %d layers (%s), values of %d (%s)", r.KVLayers, r.LayerMap, r.ValueKVLayers, r.ValueLayerMap)
	}
	if c := r.Cache[0]; c.KVLayers != 2 || c.ValueKVLayers != 3 || r.Cache[1].ValueKVLayers != 0 {
		t.Errorf("caches %+v", r.Cache[:2])
	}
}

func TestGroupedHeads(t *testing.T) {
	for heads, want := range map[int]int{1: 0, 2: 0, 4: 2, 6: 2, 7: 0, 8: 2, 12: 4, 16: 4, 32: 8, 40: 10} {
		if got := groupedHeads(heads); got != want {
			t.Errorf("%d heads: %d, expected %d", heads, got, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	dir := folder(t)
	broken := folder(t)
	if err := os.WriteFile(filepath.Join(broken, "model.safetensors"), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		code int
		want string
	}{
		{Options{Dir: filepath.Join(dir, "none")}, ui.ExitInput, "config.json"},
		{Options{Dir: broken}, ui.ExitInput, "model.safetensors"},
		{Options{Dir: dir, Batch: []int{0}}, ui.ExitUsage, "batch"},
		{Options{Dir: dir, Length: -1}, ui.ExitUsage, "length"},
	} {
		out, err := run(t, c.o)
		if ui.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%+v: %v, exit code %d, output %q", c.o, err, ui.ExitCode(err), out)
		}
	}
}
