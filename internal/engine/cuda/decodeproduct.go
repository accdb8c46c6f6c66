//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"mlkv/internal/engine/cuda/gpu"
)

// batch are tokens on their way through the layers: one a row of a step, or those of
// a chunk of prompts.
type batch struct {
	tokens              int // rows of the products
	x, normed, y, inner gpu.Ptr
	prompts             *prompts // nil in a step
}

// decodeProduct is out = in weight' + bias, or out += in weight' + bias.
type decodeProduct struct {
	m                   *deviceMap
	in, out             gpu.Ptr
	inStride, outStride int
	add                 bool // out is float32 and added to
	float               bool // out is float32
	bias                bool
}

func (p decodeProduct) describe(elem gpu.Type, rows int) gpu.Product {
	d := gpu.Product{M: rows, N: p.m.rows, K: p.m.cols, TransB: true, In: elem, Out: elem, Add: p.add}
	if p.inStride != p.m.cols {
		d.StrideA = p.inStride
	}
	if p.outStride != p.m.rows {
		d.StrideD, d.StrideC = p.outStride, p.outStride
	}
	if p.add || p.float {
		d.Out = gpu.Float32
	}
	if p.bias {
		d.Vector, d.VectorType = gpu.AddBias, d.Out
	}
	return d
}

// multiplyRows puts a product into the stream. In float32 it is one whose order of
// addition does not depend on the number of rows.
func (d *decoder) multiplyRows(p decodeProduct, rows int) error {
	if d.elem == gpu.Float32 {
		add, bias := null, null
		if p.add {
			add = p.out
		}
		if p.bias {
			bias = p.m.bias
		}
		return d.launch(d.linearFile(), "decode_product", gpu.Grid{Blocks: [3]int{(p.m.rows + 31) / 32, (rows + 7) / 8}, Threads: [3]int{256}},
			p.in, int32(p.inStride), p.m.weight, add, bias, p.out, int32(p.outStride), int32(rows), int32(p.m.rows), int32(p.m.cols))
	}
	m, err := d.product(p.describe(d.elem, rows))
	if err != nil {
		return err
	}
	return m.Run(d.stream, gpu.Operands{A: p.in, B: p.m.weight, C: p.out, D: p.out, Vector: p.m.bias, Workspace: d.mem.workspace})
}

// offset is the address of a column of a row of elements.
func (d *decoder) offset(p gpu.Ptr, column int) gpu.Ptr {
	return p + gpu.Ptr(int64(column)*d.plan.elem)
}

// queries is where a layer's queries begin in y.
func (d *decoder) queries(l deviceLayer, y gpu.Ptr) gpu.Ptr { return d.offset(y, 2*l.kv) }

// layerStride is the distance of the rows of y in a layer.
func layerStride(l deviceLayer) int { return 2*l.kv + l.query + l.mlp }

func (d *decoder) splitProduct(l deviceLayer, b batch) decodeProduct {
	stride := layerStride(l)
	return decodeProduct{m: l.split, in: b.normed, inStride: l.split.cols, out: d.offset(b.y, stride-l.split.rows), outStride: stride}
}

func (d *decoder) outProduct(l deviceLayer, b batch) decodeProduct {
	return decodeProduct{m: l.out, in: d.queries(l, b.y), inStride: layerStride(l), out: b.x, outStride: l.out.rows, add: true, bias: true}
}

func (d *decoder) headProduct() decodeProduct {
	cfg := d.plan.cfg
	return decodeProduct{m: &deviceMap{rows: cfg.VocabSize, cols: cfg.HiddenSize, weight: d.weights.head}, in: d.mem.normed, inStride: cfg.HiddenSize,
		out: d.mem.logits, outStride: cfg.VocabSize, float: true}
}

// keyValueProducts are those of key and value MLPs: to their inner layers, then to
// keys and to values.
func (d *decoder) keyValueProducts(l deviceLayer, b batch) []decodeProduct {
	inner := l.keyOut.cols
	return []decodeProduct{
		{m: l.kvIn, in: b.normed, inStride: l.kvIn.cols, out: b.inner, outStride: l.kvIn.rows},
		{m: l.keyOut, in: b.inner, inStride: 2 * inner, out: b.y, outStride: layerStride(l)},
		{m: l.valueOut, in: d.offset(b.inner, inner), inStride: 2 * inner, out: d.offset(b.y, l.kv), outStride: layerStride(l)},
	}
}

// mlpProducts are those of an MLP that follows attention.
func (d *decoder) mlpProducts(l deviceLayer, b batch) []decodeProduct {
	return []decodeProduct{
		{m: l.mlpIn, in: b.normed, inStride: l.mlpIn.cols, out: b.inner, outStride: l.mlpIn.rows},
		{m: l.mlpOut, in: b.inner, inStride: l.mlpOut.cols, out: b.x, outStride: l.mlpOut.rows, add: true, bias: true},
	}
}

// layerProducts lists all of a layer.
func (d *decoder) layerProducts(l deviceLayer, b batch) []decodeProduct {
	list := []decodeProduct{d.splitProduct(l, b), d.outProduct(l, b)}
	if l.kvIn != nil {
		list = append(list, d.keyValueProducts(l, b)...)
	}
	if l.mlpIn != nil {
		list = append(list, d.mlpProducts(l, b)...)
	}
	return list
}
