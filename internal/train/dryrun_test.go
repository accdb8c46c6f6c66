package train

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"mlkv/internal/checkpoint"
	"mlkv/internal/data"
	"mlkv/internal/engine"
	"mlkv/internal/engine/cpu"
	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// small is an engine on a device with little free memory.
type small struct {
	engine.Engine
	free int64
}

func (s small) Info() engine.Info {
	info := s.Engine.Info()
	info.Free = s.free
	return info
}

func TestDryRun(t *testing.T) {
	o := testOptions(t)
	o.DryRun, o.JSON = true, true
	out := mustRun(t, o)
	var p Plan
	if err := json.Unmarshal(out.out.Bytes(), &p); err != nil {
		t.Fatalf("%v\n%s", err, out.out.String())
	}
	if _, err := os.Stat(o.Out); err == nil {
		t.Errorf("%s was written", o.Out)
	}
	sum := 0
	for _, s := range p.Shapes {
		sum += s.Size
	}
	if sum != p.Parameters {
		t.Errorf("shapes hold %d elements, expected the %d parameters", sum, p.Parameters)
	}
	if p.Schedule.Total != 12 || p.Tokens != 12*6*testLength || p.TrainRows != testRows || p.HeldoutRows != 5 || p.Begins != "new" {
		t.Errorf("plan %+v", p)
	}
	if p.Memory.Total() <= 0 || p.StepSeconds <= 0 || p.LargestMicroRows < p.MicroRows {
		t.Errorf("memory %+v, %g s a step, at most %d rows", p.Memory, p.StepSeconds, p.LargestMicroRows)
	}
	o.JSON = false
	text := mustRun(t, o).out.String()
	for _, want := range []string{"attention.key.weight", "activations of 3 x 16 tokens", "time a step", "total"} {
		if !strings.Contains(text, want) {
			t.Errorf("expected %q in\n%s", want, text)
		}
	}
}

// TestPlanSeparateOwners: a plan counts the owners of values only where they
// are not those of keys.
func TestPlanSeparateOwners(t *testing.T) {
	o := testOptions(t)
	in, err := openInputs(o)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	common := in.model.Owner
	for _, c := range []struct {
		values model.OwnerMap
		want   string
	}{
		{nil, `"kv_layers":2,"kv_heads":2`},
		{model.OwnerMap{0, 1, 1, 3}, `"kv_layers":2,"value_kv_layers":3,"kv_heads":2`},
	} {
		in.model = in.model.WithOwners(common, c.values)
		text, err := json.Marshal(newPlan(o, in, engine.Info{}))
		if err != nil || !strings.Contains(string(text), c.want) {
			t.Errorf("expected %s, found %s (%v)", c.want, text, err)
		}
	}
}

func TestDryRunDoesNotFit(t *testing.T) {
	o := testOptions(t)
	o.DryRun = true
	base, err := checkpoint.Open(o.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	opts := trainOptions(o.Config.Uptrain, testLength)
	opts.Rows = 2
	two, err := cpu.Open(1).PlanTrainer(base.Config(), opts)
	if err != nil {
		t.Fatal(err)
	}
	o.Device = func() (engine.Engine, error) { return small{cpu.Open(1), two.Total()}, nil }
	out, err := runTrain(t, t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "uptrain.micro_rows to at most 2") {
		t.Errorf("found %v, expected the largest micro_rows to be named", err)
	}
	if !strings.Contains(out.out.String(), "activations") {
		t.Errorf("expected the plan, found %q", out.out.String())
	}
	o.Device = func() (engine.Engine, error) { return small{cpu.Open(1), 1000}, nil }
	if _, err := runTrain(t, t.Context(), o); err == nil || !strings.Contains(err.Error(), "not even one row fits") {
		t.Errorf("found %v, expected that no row fits", err)
	}
}

// TestDryRunDamaged flips a token of a shard, which only reading all of it
// shows.
func TestDryRunDamaged(t *testing.T) {
	o := testOptions(t)
	o.DryRun = true
	path := o.Config.Data.Train[0]
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[300] ^= 1
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := runTrain(t, t.Context(), o); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("found %v, expected an input error", err)
	}
}

func TestLargest(t *testing.T) {
	for _, want := range []int{0, 1, 2, 3, 7, 8, 1000, mostRows} {
		got, err := largest(func(n int) (bool, error) { return n <= want, nil })
		if err != nil || got != want {
			t.Errorf("found %d, %v, expected %d", got, err, want)
		}
	}
	broken := errors.New("broken")
	if _, err := largest(func(n int) (bool, error) { return n < 3, map[bool]error{true: broken}[n == 4] }); !errors.Is(err, broken) {
		t.Errorf("found %v, expected the cause", err)
	}
}

func TestPlanSchedule(t *testing.T) {
	o := testOptions(t)
	u := o.Config.Uptrain
	for _, c := range []struct {
		steps        int
		epochs       float64
		rows         int64
		total, warms int
	}{
		{12, 9, 41, 12, 3}, // steps go before epochs; 0.2 * 12 is rounded up
		{0, 1, 41, 6, 2},
		{0, 2, 41, 13, 3},
		{0, 0.5, 41, 3, 1},
		{0, 1, 5, 1, 1}, // less than a step
	} {
		u.Steps, u.Epochs = c.steps, c.epochs
		s, err := planSchedule(u, c.rows)
		if err != nil || s.Total != c.total || s.Warmup != c.warms {
			t.Errorf("%+v: %d steps, %d of them warm-up, %v", c, s.Total, s.Warmup, err)
		}
	}
}

func TestDiskFull(t *testing.T) {
	o := testOptions(t)
	o.Config.Uptrain.Steps = math.MaxInt32
	o.Config.Uptrain.WarmupSteps = 1
	o.Config.Uptrain.CheckpointEvery = 1
	o.Config.Uptrain.KeepCheckpoints = 0
	_, err := runTrain(t, t.Context(), o)
	if ui.ExitCode(err) != ui.ExitFailed || !strings.Contains(err.Error(), "disk space") {
		t.Errorf("found %v, expected to be told of the disk", err)
	}
	if _, err := os.Stat(o.Out); err == nil {
		t.Errorf("%s was left behind", o.Out)
	}
}

// TestHeldout compares the loss of a set that fills no whole batch with the
// mean over its rows alone.
func TestHeldout(t *testing.T) {
	o := testOptions(t)
	in, err := openInputs(o)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	trainer := func(rows int) engine.Trainer {
		opts := trainOptions(o.Config.Uptrain, testLength)
		opts.Rows = rows
		tr, err := cpu.Open(1).Trainer(in.model, in.base, opts)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	sum, counted := 0.0, 0
	single := trainer(1)
	for _, row := range in.held.rows {
		s, n, err := single.Loss(t.Context(), engine.NewBatch([][]uint16{row}, testLength))
		if err != nil {
			t.Fatal(err)
		}
		sum, counted = sum+s, counted+n
	}
	loss, tokens, err := in.held.loss(t.Context(), trainer(3), 3, testLength, func(float64) {})
	if err != nil {
		t.Fatal(err)
	}
	if d := math.Abs(loss - sum/float64(counted)); d > 1e-5 || tokens != counted {
		t.Errorf("loss %.6f of %d tokens, expected %.6f of %d", loss, tokens, sum/float64(counted), counted)
	}
}

// TestHeldoutSpread expects rows from all of the held-out text.
func TestHeldoutSpread(t *testing.T) {
	path := writeShard(t, 10, nil)
	l, err := data.OpenLoader([]string{path}, data.LoaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for n, want := range map[int][]int64{3: {0, 3, 6}, 0: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 20: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}} {
		h, err := newHeldout(l, n)
		if err != nil {
			t.Fatal(err)
		}
		if len(h.rows) != len(want) {
			t.Fatalf("%d rows, expected %d", len(h.rows), len(want))
		}
		for i, at := range want {
			if err := l.Seek(data.Position{Row: at}); err != nil {
				t.Fatal(err)
			}
			row, err := l.Next()
			if err != nil {
				t.Fatal(err)
			}
			if &row[0] != &h.rows[i][0] {
				t.Errorf("row %d of %d is not row %d of the shard", i, n, at)
			}
		}
	}
}
