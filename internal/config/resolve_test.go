package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"mlkv/internal/ui"
)

// write puts files in a temporary folder and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func flags(t *testing.T, args ...string) map[string]*pflag.Flag {
	t.Helper()
	set := pflag.NewFlagSet("x", pflag.ContinueOnError)
	out := map[string]*pflag.Flag{}
	for _, f := range schema {
		out[f.key] = AddFlag(set, f.key, strings.ReplaceAll(f.key, ".", "-"), "")
	}
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPrecedence(t *testing.T) {
	dir := write(t, map[string]string{
		"base.yaml": "uptrain:\n  rows: 2\n  micro_rows: 1\n  steps: 2\n  seed: 2\n  clip: 2\n  beta1: 0.5\n",
		"row.yaml":  "extends: base.yaml\nuptrain:\n  rows: 3\n  steps: 3\n  seed: 3\n  clip: 3\n",
	})
	t.Setenv("MLKV_UPTRAIN_STEPS", "4")
	t.Setenv("MLKV_UPTRAIN_SEED", "4")
	t.Setenv("MLKV_UPTRAIN_CLIP", "4.5")
	t.Setenv("MLKV_UPTRAIN_BETA1", "") // an empty variable counts as none
	row := filepath.Join(dir, "row.yaml")
	r, err := Resolve(Sources{
		File:  row,
		Flags: flags(t, "--uptrain-seed=5", "--eval-tasks=piqa,sciq"),
		Set:   []string{"uptrain.clip=6", "data.train=a, b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key    string
		want   any
		origin string
	}{
		{"uptrain.learning_rate", 6e-4, "default"},
		{"uptrain.micro_rows", 1, filepath.Join(dir, "base.yaml") + ":3"},
		{"uptrain.beta1", 0.5, filepath.Join(dir, "base.yaml") + ":7"},
		{"uptrain.rows", 3, row + ":3"},
		{"uptrain.steps", 4, "MLKV_UPTRAIN_STEPS"},
		{"uptrain.seed", int64(5), "--uptrain-seed"},
		{"uptrain.clip", 6.0, "--set"},
		{"data.train", []string{"a", "b"}, "--set"},
		{"eval.tasks", []string{"piqa", "sciq"}, "--eval-tasks"},
	} {
		f, _ := lookup(c.key)
		if got := f.get(&r.Config); !reflect.DeepEqual(got, c.want) || r.Origin[c.key] != c.origin {
			t.Errorf("%s: got %v from %s, want %v from %s", c.key, got, r.Origin[c.key], c.want, c.origin)
		}
	}
}

// Every key can be given by each means and arrives with its value and type.
func TestEveryKeyByEveryMeans(t *testing.T) {
	other := func(f field) string {
		switch f.key {
		case "device":
			return "cpu"
		case "convert.kv_layers":
			return "0" // excludes layer_map
		case "convert.layer_map", "convert.value_layer_map":
			return "0_0_2"
		case "convert.start":
			return "absorb"
		case "convert.pooling":
			return "first"
		case "convert.grow":
			return "none"
		case "convert.shared_key_rotary":
			return "before"
		case "convert.dtype":
			return "bfloat16"
		case "convert.preset", "convert.format", "data.packing":
			return "authors"
		case "uptrain.schedule":
			return "linear"
		case "uptrain.decay":
			return "all"
		case "precision":
			return "float32"
		case "uptrain.recompute":
			return "layer"
		case "uptrain.on_nan":
			return "skip"
		case "eval.tasks":
			return "boolq"
		case "eval.precision":
			return "bf16"
		case "measure.lengths":
			return "16,32"
		case "measure.cache_bits":
			return "16"
		case "measure.memory":
			return "2GiB"
		}
		def := Default()
		switch f.typ.Kind() {
		case reflect.Int, reflect.Int64:
			return "6"
		case reflect.Float64:
			return "0.0001"
		case reflect.Bool:
			if f.get(&def).(bool) {
				return "false"
			}
			return "true"
		case reflect.Slice:
			if f.typ.Elem().Kind() == reflect.Int {
				return "6,7"
			}
		}
		return "x"
	}
	var set, args []string
	yaml := map[string]any{}
	for _, f := range schema {
		set = append(set, f.key+"="+other(f))
		args = append(args, "--"+strings.ReplaceAll(f.key, ".", "-")+"="+other(f))
		yaml[f.key] = other(f)
	}
	bySet, err := Resolve(Sources{Set: set})
	if err != nil {
		t.Fatal(err)
	}
	byFlag, err := Resolve(Sources{Flags: flags(t, args...)})
	if err != nil {
		t.Fatal(err)
	}
	text, err := bySet.YAML()
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{"x.yaml": string(text)})
	byFile, err := Resolve(Sources{File: filepath.Join(dir, "x.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range schema {
		t.Setenv(f.env(), other(f))
	}
	byEnv, err := Resolve(Sources{})
	if err != nil {
		t.Fatal(err)
	}
	def := Default()
	for _, f := range schema {
		want := f.get(&bySet.Config)
		for how, c := range map[string]Config{"flag": byFlag.Config, "file": byFile.Config, "environment": byEnv.Config} {
			if got := f.get(&c); !reflect.DeepEqual(got, want) {
				t.Errorf("%s by %s is %#v, by --set %#v", f.key, how, got, want)
			}
		}
		if reflect.DeepEqual(want, f.get(&def)) && f.key != "convert.kv_layers" {
			t.Errorf("%s: the test's value %v is the default", f.key, want)
		}
	}
}

func TestPreset(t *testing.T) {
	r, err := Resolve(Sources{Set: []string{"convert.preset=authors", "convert.grow=none"}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Convert.Pooling != "running" || r.Convert.SharedKeyRotary != "before" || r.Convert.Grow != "none" {
		t.Errorf("got %+v, want the preset's values but for grow", r.Convert)
	}
	if r.Origin["convert.pooling"] != "preset authors" {
		t.Errorf("origin of convert.pooling: %s", r.Origin["convert.pooling"])
	}
}

func TestYAMLRoundTrip(t *testing.T) {
	first, err := Resolve(Sources{Set: []string{"name=MLKV: 6 # x", "uptrain.eps=1e-9", "data.train=a,b", "work="}})
	if err != nil {
		t.Fatal(err)
	}
	for name, write1 := range map[string]func() ([]byte, error){"plain": first.YAML, "with origins": first.YAMLWithOrigins} {
		text, err := write1()
		if err != nil {
			t.Fatal(err)
		}
		dir := write(t, map[string]string{"c.yaml": string(text)})
		second, err := Resolve(Sources{File: filepath.Join(dir, "c.yaml")})
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		again, err := second.YAML()
		if err != nil {
			t.Fatal(err)
		}
		plain, _ := first.YAML()
		if string(again) != string(plain) {
			t.Errorf("%s: read back as\n%s\nwant\n%s", name, again, plain)
		}
	}
}

func TestRefusals(t *testing.T) {
	dir := write(t, map[string]string{
		"unknown.yaml":  "name: x\nuptrain:\n  step: 5\n",
		"section.yaml":  "\nuptrian:\n  steps: 5\n",
		"moved.yaml":    "uptrain:\n  pooling: mean\n",
		"upper.yaml":    "Name: x\n",
		"twice.yaml":    "uptrain:\n  steps: 5\n  steps: 6\n",
		"type.yaml":     "uptrain:\n  steps: many\n",
		"float.yaml":    "uptrain:\n  steps: 1.5\n",
		"bool.yaml":     "uptrain:\n  tensorboard: 1\n",
		"null.yaml":     "base:\n",
		"scalar.yaml":   "uptrain: 5\n",
		"list.yaml":     "- 1\n",
		"nolist.yaml":   "eval:\n  tasks: piqa\n",
		"nested.yaml":   "eval:\n  tasks: [[piqa]]\n",
		"two.yaml":      "name: x\n---\nname: y\n",
		"broken.yaml":   "name: [\n",
		"self.yaml":     "extends: self.yaml\n",
		"ring-a.yaml":   "extends: ring-b.yaml\n",
		"ring-b.yaml":   "name: x\nextends: ring-a.yaml\n",
		"orphan.yaml":   "extends: nowhere.yaml\n",
		"value.yaml":    "convert:\n  pooling: men\n  layer_map: 0_2\n  value_layer_map: 0_2_1\n",
		"micro.yaml":    "uptrain:\n  micro_rows: 5\n",
		"merge.yaml":    "x: &a {}\n",
		"numbers.yaml":  "measure:\n  batches: [8, many]\n",
		"infinite.yaml": "uptrain:\n  learning_rate: .nan\n",
	})
	for _, c := range []struct {
		file string
		set  []string
		want []string
	}{
		{"unknown.yaml", nil, []string{"unknown.yaml:3: unknown key uptrain.step (did you mean uptrain.steps?)"}},
		{"section.yaml", nil, []string{"section.yaml:2: unknown key uptrian"}},
		{"moved.yaml", nil, []string{"moved.yaml:2: unknown key uptrain.pooling (did you mean convert.pooling?)"}},
		{"upper.yaml", nil, []string{"unknown key Name (did you mean name?)"}},
		{"twice.yaml", nil, []string{"twice.yaml:3: uptrain.steps: stands twice, first on line 2"}},
		{"type.yaml", nil, []string{`type.yaml:2: uptrain.steps: expected a whole number, found "many"`}},
		{"float.yaml", nil, []string{`uptrain.steps: expected a whole number, found "1.5"`}},
		{"bool.yaml", nil, []string{`uptrain.tensorboard: expected true or false, found "1"`}},
		{"null.yaml", nil, []string{"base: expected text, found nothing"}},
		{"scalar.yaml", nil, []string{`scalar.yaml:1: uptrain: expected keys and values, found "5"`}},
		{"list.yaml", nil, []string{"the file: expected keys and values, found a list"}},
		{"nolist.yaml", nil, []string{`eval.tasks: expected a list, found "piqa"`}},
		{"nested.yaml", nil, []string{"eval.tasks: expected a list"}},
		{"two.yaml", nil, []string{"expected one YAML document"}},
		{"broken.yaml", nil, []string{"broken.yaml: not YAML: "}},
		{"self.yaml", nil, []string{"self.yaml:1: extends: ", "extends itself"}},
		{"ring-a.yaml", nil, []string{"ring-b.yaml:2: extends: ", "extends itself"}},
		{"orphan.yaml", nil, []string{"orphan.yaml:1: extends: ", "nowhere.yaml"}},
		{"missing.yaml", nil, []string{"missing.yaml"}},
		{"value.yaml", nil, []string{
			`convert.pooling: expected one of mean, running, first, found "men" (did you mean mean?) (from `, "value.yaml:2)",
			"convert.layer_map: \"0_2\"", "value.yaml:3)",
			"convert.value_layer_map: \"0_2_1\"", "value.yaml:4)"}},
		{"micro.yaml", nil, []string{"uptrain.micro_rows: expected a divisor of uptrain.rows 24, found 5; choose one of [1 2 3 4 6 8 12 24]"}},
		{"merge.yaml", nil, []string{"unknown key x"}},
		{"infinite.yaml", nil, []string{"uptrain.learning_rate: expected more than 0, found NaN"}},
		{"", []string{"uptrain.steps"}, []string{"--set uptrain.steps: expected KEY=VALUE"}},
		{"", []string{"uptrain.stops=1"}, []string{"unknown key uptrain.stops (did you mean uptrain.steps?)"}},
		{"", []string{"uptrain.steps=x"}, []string{`--set uptrain.steps=x: expected a whole number, found "x"`}},
		{"", []string{"uptrain.steps=1", "uptrain.steps=2"}, []string{"uptrain.steps was given before by --set"}},
		{"", []string{"uptrain.steps=0", "uptrain.epochs=0"}, []string{"uptrain.epochs: expected more than 0 where uptrain.steps is 0, found 0 (from --set)"}},
		{"", []string{"device=gpu"}, []string{`device: expected auto, cpu, cuda or cuda:N, found "gpu"`}},
		{"", []string{"uptrain.final_rate=1"}, []string{"uptrain.final_rate: expected 0 to 0.0006, found 1"}},
		{"", []string{"convert.layer_map=0_0", "convert.kv_layers=1"}, []string{"either kv_layers or layer_map"}},
		{"", []string{"measure.lengths=48"}, []string{"measure.lengths: expected 49 or more, found 48"}},
		{"", []string{"measure.batches=8,x"}, []string{`measure.batches=8,x: expected a list of whole numbers, found "8,x"`}},
		{"", []string{"measure.memory=much"}, []string{`measure.memory: expected a number of bytes such as 40GiB, found "much"`}},
		{"", []string{"measure.cache_bits=4"}, []string{"measure.cache_bits: expected one of [0 8 16 32], found 4"}},
		{"numbers.yaml", nil, []string{"measure.batches: expected a list of whole numbers, found a list"}},
		{"", []string{"eval.tasks=piqa,arc"}, []string{`eval.tasks: expected one of`, `found "arc"`}},
	} {
		s := Sources{Set: c.set}
		if c.file != "" {
			s.File = filepath.Join(dir, c.file)
		}
		_, err := Resolve(s)
		if ui.ExitCode(err) != ui.ExitUsage {
			t.Errorf("%s %v: got %v, want a usage error", c.file, c.set, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s %v: message lacks %q:\n%v", c.file, c.set, want, err)
			}
		}
	}
}

func TestEnvironmentRefusals(t *testing.T) {
	for name, want := range map[string]string{
		"MLKV_UPTRAIN_STEP":  "environment variable MLKV_UPTRAIN_STEP: names no key (did you mean MLKV_UPTRAIN_STEPS?)",
		"MLKV_UPTRAIN_STEPS": `MLKV_UPTRAIN_STEPS: uptrain.steps: expected a whole number, found "x"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "x")
			if _, err := Resolve(Sources{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
	t.Setenv("MLKV_GOLDEN", "x") // no section of ours
	if _, err := Resolve(Sources{}); err != nil {
		t.Error(err)
	}
}

func TestFlagAndSetOfOneKey(t *testing.T) {
	_, err := Resolve(Sources{Flags: flags(t, "--uptrain-steps=5"), Set: []string{"uptrain.steps=6"}})
	if err == nil || !strings.Contains(err.Error(), "given before by --uptrain-steps") {
		t.Errorf("got %v", err)
	}
}

func TestKeysAreLowerCase(t *testing.T) {
	env := map[string]string{}
	for _, f := range schema {
		if f.key != strings.ToLower(f.key) || strings.Contains(f.key, "..") || strings.HasSuffix(f.key, ".") {
			t.Errorf("key %q: expected lower-case yaml tags", f.key)
		}
		if other, ok := env[f.env()]; ok {
			t.Errorf("%s and %s share the variable %s", f.key, other, f.env())
		}
		env[f.env()] = f.key
	}
	if err := Default().Validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	text, err := Default().YAML()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "# x", string(text), "a: &x [*x]", "uptrain: {steps: 1}", "extends: x", "? [a]\n: b", "!!binary x: y", "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		values, _, err := decode("x.yaml", data)
		if err != nil {
			if ui.ExitCode(err) != ui.ExitUsage || !strings.HasPrefix(err.Error(), "x.yaml") {
				t.Errorf("error without place or code: %v", err)
			}
			return
		}
		for key, v := range values {
			if f, ok := lookup(key); !ok || reflect.TypeOf(v.v) != f.typ {
				t.Errorf("key %q decoded as %T", key, v.v)
			}
		}
	})
}
