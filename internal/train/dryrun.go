package train

import (
	"context"
	"fmt"
	"slices"

	"mlkv/internal/engine"
	"mlkv/internal/ui"
)

// Plan is what --dry-run finds out: what the run would compute, hold and take.
type Plan struct {
	Checkpoint string  `json:"checkpoint"`
	Teacher    string  `json:"teacher,omitempty"`
	Run        string  `json:"run"`
	Begins     string  `json:"begins"` // "new", or where an unfinished run goes on
	Shapes     []Shape `json:"shapes"`
	Parameters int     `json:"parameters"`
	KVLayers   int     `json:"kv_layers"`
	// ValueKVLayers are the owners of values where these are not those of keys.
	ValueKVLayers int `json:"value_kv_layers,omitempty"`
	KVHeads       int `json:"kv_heads"`

	Rows        int      `json:"rows"`
	MicroRows   int      `json:"micro_rows"`
	RowLength   int      `json:"row_length"`
	TrainRows   int64    `json:"train_rows"`
	HeldoutRows int      `json:"heldout_rows"`
	Schedule    Schedule `json:"schedule"`
	Tokens      int64    `json:"tokens"` // positions of all steps
	Epochs      float64  `json:"epochs"`

	Device string        `json:"device"`
	Memory engine.Memory `json:"memory"` // bytes
	Free   int64         `json:"free"`   // bytes of the device, 0 where not known
	// LargestMicroRows is the largest micro_rows that fits into Free.
	LargestMicroRows int `json:"largest_micro_rows,omitempty"`

	FLOPs       float64 `json:"flops_per_step"`
	StepSeconds float64 `json:"seconds_per_step,omitempty"` // 0 where not known
	StepSource  string  `json:"seconds_per_step_source"`    // how it was found

	CheckpointBytes int64 `json:"checkpoint_bytes"`
	DiskBytes       int64 `json:"disk_bytes"` // most that the run folder holds
}

// dryRun checks every input down to the last token and prints the plan. It
// writes no file.
func dryRun(ctx context.Context, o Options, in *inputs, s ui.Streams) error {
	former, err := (&folder{path: o.Out}).inspect(in.identity, mode{o.Resume, o.Force})
	if err != nil {
		return err
	}
	if err := in.checkAllShards(ctx, s); err != nil {
		return err
	}
	eng, err := o.Device()
	if err != nil {
		return err
	}
	defer eng.Close()
	p := newPlan(o, in, eng.Info())
	if former != nil {
		p.Begins = "goes on with the unfinished run"
	}
	if err := p.planMemory(eng, in, o); err != nil {
		return err
	}
	fits := p.Free == 0 || p.Memory.Total() <= p.Free
	if !fits {
		p.StepSource = "not measured: it does not fit"
	} else if err := p.estimate(ctx, eng, in, o); err != nil {
		return err
	}
	if err := p.write(s.Out, o.JSON); err != nil {
		return err
	}
	if !fits {
		return p.tooLarge()
	}
	return checkDisk(o.Out, p.DiskBytes)
}

// tooLarge says what to change where a trainer does not fit.
func (p *Plan) tooLarge() error {
	advice := fmt.Sprintf("set uptrain.micro_rows to at most %d", p.LargestMicroRows)
	if p.LargestMicroRows == 0 {
		advice = "not even one row fits; prepare shorter rows (data.row_length) or take a device with more memory"
	}
	return fmt.Errorf("memory of %s: expected at most the free %s, found a need of %s; %s, or on a GPU compute results again (uptrain.recompute)",
		p.Device, ui.FormatBytes(p.Free), ui.FormatBytes(p.Memory.Total()), advice)
}

// checkAllShards reads every shard to its last token.
func (in *inputs) checkAllShards(ctx context.Context, s ui.Streams) error {
	shards := in.loader.Shards()
	if in.heldLoader != nil {
		shards = slices.Concat(shards, in.heldLoader.Shards())
	}
	rows := int64(0)
	for _, sh := range shards {
		rows += sh.Rows
	}
	progress := ui.NewProgress(s, rows, "check shards", ui.Count("rows"))
	defer progress.Done()
	for _, sh := range shards {
		if ctx.Err() != nil {
			return ui.ErrInterrupted
		}
		if err := sh.Check(); err != nil {
			return err
		}
		progress.Add(sh.Rows)
	}
	return nil
}

func newPlan(o Options, in *inputs, info engine.Info) *Plan {
	u := o.Config.Uptrain
	p := &Plan{
		Checkpoint: in.base.Dir(), Run: o.Out, Begins: "new",
		Shapes: shapes(in.model), Parameters: in.model.Parameters(),
		KVLayers: in.model.Owner.Owners(), ValueKVLayers: in.model.ValueOwner.Owners(), KVHeads: in.model.KVHeads,
		Rows: u.Rows, MicroRows: u.MicroRows, RowLength: in.length(), TrainRows: in.loader.Rows(),
		Schedule: in.schedule,
		Tokens:   int64(in.schedule.Total) * int64(u.Rows) * int64(in.length()),
		Epochs:   float64(in.schedule.Total) * float64(u.Rows) / float64(in.loader.Rows()),
		Device:   deviceName(info), Free: info.Free,
		FLOPs:           in.flops() * float64(u.Rows) * float64(in.length()),
		CheckpointBytes: in.checkpointBytes(), DiskBytes: in.diskNeeded(u),
	}
	if in.teacher != nil {
		p.Teacher = in.teacher.Dir()
	}
	if in.held != nil {
		p.HeldoutRows = len(in.held.rows)
	}
	return p
}

// planMemory asks the engine what a trainer would hold, and searches the
// largest micro-batch that fits.
func (p *Plan) planMemory(eng engine.Engine, in *inputs, o Options) error {
	plan := func(rows int) (engine.Memory, error) {
		opts := in.trainOptions(o.Config.Uptrain)
		opts.Rows = rows
		return eng.PlanTrainer(in.model, opts)
	}
	var err error
	if p.Memory, err = plan(p.MicroRows); err != nil {
		return err
	}
	if p.Free == 0 {
		return nil
	}
	fits := func(rows int) (bool, error) {
		m, err := plan(rows)
		return m.Total() <= p.Free, err
	}
	p.LargestMicroRows, err = largest(fits)
	return err
}

// mostRows bounds the search for the largest micro-batch.
const mostRows = 1 << 14

// largest is the greatest n up to mostRows that fits, 0 if none does. What
// fits once fits for every smaller n.
func largest(fits func(n int) (bool, error)) (int, error) {
	good, bad := 0, 1
	for bad <= mostRows {
		ok, err := fits(bad)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		good, bad = bad, 2*bad
	}
	for bad-good > 1 && good < mostRows {
		mid := (good + bad) / 2
		ok, err := fits(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			good = mid
		} else {
			bad = mid
		}
	}
	return good, nil
}
