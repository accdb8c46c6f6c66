package train

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"mlkv/internal/model"
	"mlkv/internal/ui"
)

// Shape is a tensor that a model has once, or once in each of some layers.
type Shape struct {
	Name   string `json:"name"`
	Shape  []int  `json:"shape"`
	Layers []int  `json:"layers,omitempty"`
	Size   int    `json:"size"` // elements in all layers together
}

// shapes lists a model's tensors, those of all layers together.
func shapes(cfg model.Config) []Shape {
	var out []Shape
	at := map[string]int{}
	for _, p := range cfg.Params() {
		name := p.Name
		if p.Layer >= 0 {
			name = name[len(model.LayerName(p.Layer, "")):]
		}
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name] = i
			out = append(out, Shape{Name: name, Shape: p.Shape})
		}
		if p.Layer >= 0 {
			out[i].Layers = append(out[i].Layers, p.Layer)
		}
		out[i].Size += p.Size()
	}
	return out
}

// write prints the plan as tables, or as JSON.
func (p *Plan) write(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(p)
	}
	for i, t := range []*ui.Table{p.shapeTable(), p.memoryTable(), p.runTable()} {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := t.Text(w); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) shapeTable() *ui.Table {
	t := ui.NewTable("tensor", "shape", "layers", "parameters")
	for _, s := range p.Shapes {
		layers := ui.Cell{}
		if s.Layers != nil {
			layers = ui.Cell{Value: len(s.Layers), Text: fmt.Sprint(len(s.Layers))}
		}
		t.Row(s.Name, fmt.Sprint(s.Shape), layers, ui.Integer(s.Size))
	}
	t.Row("total", "", nil, ui.Integer(p.Parameters))
	return t
}

func (p *Plan) memoryTable() *ui.Table {
	t := ui.NewTable("memory of "+p.Device, "bytes")
	bytes := func(n int64) ui.Cell { return ui.Cell{Value: n, Text: ui.FormatBytes(n)} }
	t.Row("weights", bytes(p.Memory.Weights))
	t.Row("gradients", bytes(p.Memory.Gradients))
	t.Row("optimizer", bytes(p.Memory.Optimizer))
	t.Row(fmt.Sprintf("activations of %d x %d tokens", p.MicroRows, p.RowLength), bytes(p.Memory.Activations))
	t.Row("workspace", bytes(p.Memory.Workspace))
	if p.Teacher != "" {
		t.Row("teacher", bytes(p.Memory.Teacher))
	}
	t.Row("total", bytes(p.Memory.Total()))
	if p.Free > 0 {
		t.Row("free", bytes(p.Free))
	}
	return t
}

func (p *Plan) runTable() *ui.Table {
	t := ui.NewTable("run", p.Run)
	t.Row("begins", p.Begins)
	t.Row("checkpoint", p.Checkpoint)
	if p.Teacher != "" {
		t.Row("teacher", p.Teacher)
	}
	t.Row("steps", fmt.Sprintf("%s, warm-up %s, %s from %g to %g",
		ui.FormatInt(int64(p.Schedule.Total)), ui.FormatInt(int64(p.Schedule.Warmup)), p.Schedule.Shape, p.Schedule.Peak, p.Schedule.Final))
	t.Row("a step", fmt.Sprintf("%d rows of %d tokens, %d rows in a pass", p.Rows, p.RowLength, p.MicroRows))
	t.Row("tokens", fmt.Sprintf("%s, %.3g epochs of %s rows", ui.FormatInt(p.Tokens), p.Epochs, ui.FormatInt(p.TrainRows)))
	t.Row("held-out rows", ui.FormatInt(int64(p.HeldoutRows)))
	if p.LargestMicroRows > 0 {
		t.Row("largest micro_rows", ui.FormatInt(int64(p.LargestMicroRows)))
	}
	t.Row("operations a step", ui.FormatRate(p.FLOPs)+"FLOP")
	if p.StepSeconds > 0 {
		step := time.Duration(p.StepSeconds * float64(time.Second))
		t.Row("time a step", fmt.Sprintf("%s (%s)", ui.FormatDuration(step), p.StepSource))
		t.Row("time of the run", ui.FormatDuration(time.Duration(float64(step)*float64(p.Schedule.Total)))+", held-out text and checkpoints not counted")
	} else {
		t.Row("time a step", p.StepSource)
	}
	t.Row("disk", fmt.Sprintf("%s at most, %s a checkpoint", ui.FormatBytes(p.DiskBytes), ui.FormatBytes(p.CheckpointBytes)))
	return t
}
