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
	cfg := model.Plain(50, 96, 6, 12)
	cfg.KVHeads = 4
	cfg.Owner, _ = model.ParseOwnerMap("0_0_2_0_2_5")
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
