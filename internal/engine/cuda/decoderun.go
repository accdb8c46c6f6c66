//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"math"

	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// stepVariant, fewVariant, sampleVariant and cacheVariant are the kernel files of
// a step.
func (d *decoder) stepVariant() variant {
	return d.variant("decode.cu", fmt.Sprintf("CACHE=%d", d.plan.bits))
}
func (d *decoder) linearFile() variant { return d.variant("decode_linear.cu", "") }
func (d *decoder) sampleFile() variant { return d.variant("decode_sample.cu", "") }
func (d *decoder) cacheVariant() variant {
	return d.variant("decode_attention.cu", fmt.Sprintf("HEAD_SIZE=%d CACHE=%d", d.plan.cfg.HeadSize(), d.plan.bits))
}

// decodeLaunch is how attention over the cache is launched.
type decodeLaunch struct {
	fast              bool // by decode_attention, else by decode_attention_plain
	blocks, threads   int
	teams, unit, slot int // in all; see decode_attention.cu
	wide              bool
	shared            int
}

// partialBytes is the room that teams need for heads that they share.
func (l decodeLaunch) partialBytes(cfg model.Config) int64 {
	return 2 * int64(l.teams) * int64(cfg.Heads/cfg.KVHeads) * int64(l.slot) * 4
}

// attentionLaunch chooses the kernel: the fast one has no order of addition that is
// the same for a row in every batch, as float32 asks for.
func (d *decoder) attentionLaunch() (decodeLaunch, error) {
	cfg := d.plan.cfg
	group, size := cfg.Heads/cfg.KVHeads, cfg.HeadSize()
	l := decodeLaunch{wide: group > 8, shared: 4 * (group*(256+2*size) + 2*group)}
	if d.elem == gpu.Float32 || group > 16 || size != 64 && size != 128 {
		return l, nil
	}
	c, err := d.kernels.constants(d.cacheVariant(), "decode_attention_launch", 4)
	if err != nil {
		return l, err
	}
	teams := int(c[0]) // of a block, of 128 threads each
	l.fast, l.threads, l.unit, l.slot = true, 128*teams, int(c[1]), int(c[2])
	l.blocks = d.info.SMs
	if d.beside() {
		l.blocks -= sideSMs
	}
	l.teams, l.shared = l.blocks*teams, 4*teams*max(int(c[3]), 4*group*l.slot)
	return l, nil
}

// few says whether a step takes the products for few rows: those of bf16 weights
// with a parallel residual, as long as a block holds the rows that it multiplies.
func (d *decoder) few() bool {
	p, cfg := d.plan, d.plan.cfg
	widest := cfg.HiddenSize + cfg.IntermediateSize
	shared := p.o.Rows * (widest + 64) * 2
	return d.elem == gpu.BFloat16 && p.bits == 16 && cfg.ParallelResidual && cfg.KVIntermediateSize == 0 &&
		p.o.Rows <= fewRows && shared+fewStatic <= d.info.SharedMemory
}

// beside says whether MLPs are taken beside attention.
func (d *decoder) beside() bool {
	return d.plan.overlaps() && d.plan.cfg.KVIntermediateSize == 0 && sideSMs > 0 && d.info.SMs > 4*sideSMs
}

const (
	fewRows   = 16
	fewStatic = 17 << 10 // shared memory of the kernels besides the rows
)

// fewShared is the shared memory for rows of activations; see Few::stride.
func fewShared(rows, k int) int { return 2 * rows * (k + 8*((12-k/8%8)%8)) }

// rotaryTable is that of every position of the cache.
func (d *decoder) rotaryTable() (table gpu.Ptr, pairs int, err error) {
	r := graph.Rotary(d.plan.cfg, d.plan.capacity)
	if r.Dims == 0 {
		return null, 0, nil
	}
	table, err = d.table(r)
	return table, r.Dims / 2, err
}

// launchEarly puts a kernel into the stream that may begin before the one ahead has
// ended; see decode.cuh.
func (d *decoder) launchEarly(v variant, name string, g gpu.Grid, args ...any) error {
	if d.info.Major < 9 {
		return d.launch(v, name, g, args...)
	}
	k, err := d.kernels.kernel(v, name)
	if err != nil {
		return err
	}
	return k.LaunchEarly(d.stream, g, args...)
}

// prepare compiles the kernels and tunes the products that a step needs, which takes
// memory of its own.
func (d *decoder) prepare() error {
	list := []variant{d.stepVariant(), d.cacheVariant(), d.sampleFile(), d.linearFile()}
	if err := d.kernels.load(list...); err != nil {
		return err
	}
	if _, _, err := d.rotaryTable(); err != nil {
		return err
	}
	rows := d.plan.o.Rows
	if d.few() {
		return nil
	}
	for _, m := range d.products(rows) {
		if _, err := d.product(m); err != nil {
			return err
		}
	}
	return nil
}

// products lists those of a step in bf16, by cuBLASLt.
func (d *decoder) products(rows int) []gpu.Product {
	if d.elem == gpu.Float32 {
		return nil
	}
	var list []gpu.Product
	for _, l := range d.weights.layers {
		b := batch{tokens: rows}
		products := d.layerProducts(l, b)
		if d.beside() {
			split, in, out, attended := d.sideProducts(l, b)
			products = []decodeProduct{split, in, out, attended}
		}
		for _, o := range products {
			list = append(list, o.describe(d.elem, rows))
		}
	}
	for first := 0; first < rows; first += d.plan.head {
		list = append(list, d.headProduct().describe(d.elem, min(d.plan.head, rows-first)))
	}
	return list
}

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
	d.StrideB = p.m.stride
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

// sideSMs are the multiprocessors that attention leaves to an MLP beside it; 0: none
// is taken beside it.
var sideSMs = 12

// multiplyBeside puts a product in bf16 into the side stream.
func (d *decoder) multiplyBeside(p decodeProduct, rows int) error {
	m, err := d.product(p.describe(d.elem, rows))
	if err != nil {
		return err
	}
	return m.Run(d.side.stream, gpu.Operands{A: p.in, B: p.m.weight, C: p.out, D: p.out, Vector: p.m.bias, Workspace: d.mem.sideWorkspace})
}

// sideProducts are those of a layer whose MLP is taken beside attention: to keys,
// values and queries, to the MLP's inner layer, back from it, and from attention.
func (d *decoder) sideProducts(l deviceLayer, b batch) (split, in, out, attended decodeProduct) {
	heads, stride, elem := 2*l.kv+l.query, layerStride(l), d.plan.elem
	inner := d.offset(b.y, heads)
	split = decodeProduct{m: l.split.outputs(0, heads, elem), in: b.normed, inStride: l.split.cols, out: b.y, outStride: stride}
	in = decodeProduct{m: l.split.outputs(heads, l.mlp, elem), in: b.normed, inStride: l.split.cols, out: inner, outStride: stride}
	out = decodeProduct{m: l.out.inputs(l.query, l.mlp, elem), in: inner, inStride: stride, out: b.x, outStride: l.out.rows, add: true}
	attended = decodeProduct{m: l.out.inputs(0, l.query, elem), in: d.queries(l, b.y), inStride: stride, out: b.x, outStride: l.out.rows, add: true, bias: true}
	return split, in, out, attended
}

// layerBeside is layer with the MLP in a stream of its own.
func (d *decoder) layerBeside(l deviceLayer, b batch) error {
	split, in, out, attended := d.sideProducts(l, b)
	heads := 2*l.kv + l.query
	bias := l.split.bias + gpu.Ptr(4*heads)
	heading := l
	heading.mlp = 0
	side := d.side.stream
	return inOrder(
		func() error { return d.norm(b.x, null, null, b.normed, b.tokens) },
		func() error { return d.side.fork.Record(d.stream) },
		func() error { return side.Wait(d.side.fork) },
		func() error { return d.multiplyBeside(in, b.tokens) },
		func() error { return d.multiplyRows(split, b.tokens) },
		func() error {
			k, err := d.kernels.kernel(d.stepVariant(), "decode_gelu")
			if err != nil {
				return err
			}
			return k.Launch(side, eights(b.tokens*l.mlp), in.out, bias, int32(b.tokens), int32(l.mlp), int32(layerStride(l)))
		},
		func() error { return d.multiplyBeside(out, b.tokens) },
		func() error { return d.side.join.Record(side) },
		func() error { return d.splitColumns(heading, b, layerStride(l)) },
		func() error { return d.attendCache(l, b.y) },
		func() error { return d.stream.Wait(d.side.join) },
		func() error { return d.multiplyRows(attended, b.tokens) },
	)
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

func (d *decoder) norm(x, gain, shift, out gpu.Ptr, rows int) error {
	return d.launchEarly(d.stepVariant(), "decode_norm", gpu.Grid{Blocks: [3]int{(rows + 3) / 4}, Threads: [3]int{128}},
		x, gain, shift, out, int32(rows), int32(d.plan.cfg.HiddenSize), float32(d.plan.cfg.LayerNormEps))
}

func (d *decoder) geluInner(m *deviceMap, b batch) error {
	return d.launchEarly(d.stepVariant(), "decode_gelu", eights(b.tokens*m.rows), b.inner, m.bias, int32(b.tokens), int32(m.rows), int32(m.rows))
}

// layer runs a layer on a batch.
func (d *decoder) layer(l deviceLayer, b batch) error {
	if err := d.norm(b.x, null, null, b.normed, b.tokens); err != nil {
		return err
	}
	if err := d.multiplyRows(d.splitProduct(l, b), b.tokens); err != nil {
		return err
	}
	if l.kvIn != nil {
		products := d.keyValueProducts(l, b)
		for i, p := range products {
			if err := d.multiplyRows(p, b.tokens); err != nil {
				return err
			}
			if i == 0 {
				if err := d.geluInner(l.kvIn, b); err != nil {
					return err
				}
			}
		}
	}
	attend := func() error { return d.attendCache(l, b.y) }
	if b.prompts != nil {
		attend = func() error { return d.attendPrompts(l, b) }
	}
	err := inOrder(
		func() error { return d.splitHeads(l, b) },
		attend,
		func() error { return d.multiplyRows(d.outProduct(l, b), b.tokens) },
	)
	if err != nil || l.mlpIn == nil {
		return err
	}
	products := d.mlpProducts(l, b)
	return inOrder(
		func() error { return d.norm(b.x, null, null, b.normed, b.tokens) },
		func() error { return d.multiplyRows(products[0], b.tokens) },
		func() error { return d.geluInner(l.mlpIn, b) },
		func() error { return d.multiplyRows(products[1], b.tokens) },
	)
}

// unrotated says whether a layer's owner keeps its keys without rotary.
func (d *decoder) unrotated(owner int) bool {
	cfg := d.plan.cfg
	return cfg.SharedKeyRotary == model.RotaryBefore && len(cfg.Owner.Members(owner)) > 1
}

func flag(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// cached are the addresses of an owner's part of the cache.
func (d *decoder) cached(owner int) (keys, values, keyScales, valueScales gpu.Ptr) {
	k, v, ks, vs := d.plan.place(owner)
	at := func(n int64) gpu.Ptr { return d.mem.cache + gpu.Ptr(n) }
	return at(k), at(v), at(ks), at(vs)
}

// splitHeads runs decode_split on all columns of a layer.
func (d *decoder) splitHeads(l deviceLayer, b batch) error {
	return d.splitColumns(l, b, layerStride(l))
}

// splitColumns runs decode_split on the columns that l tells, in rows of the given
// stride.
func (d *decoder) splitColumns(l deviceLayer, b batch, stride int) error {
	table, pairs, err := d.rotaryTable()
	if err != nil {
		return err
	}
	p := d.plan
	keys, values, keyScales, valueScales := d.cached(l.owner)
	positions, borrowed := d.mem.position, null
	first, length, tokens := 0, 1, b.tokens
	if b.prompts != nil {
		positions, first, length, borrowed = null, b.prompts.first, b.prompts.length, b.prompts.borrowed[l.owner]
		tokens = b.prompts.rows * length
		if l.kv == 0 {
			borrowed = null
		}
	}
	shared := 0
	if p.bits == 8 {
		shared = l.kv
	}
	return d.launchEarly(d.stepVariant(), "decode_split", gpu.Grid{Blocks: [3]int{tokens}, Threads: [3]int{256}, Shared: shared},
		b.y, int32(stride), l.split.bias, int32(l.kv), int32(l.query), int32(l.mlp), int32(p.cfg.HeadSize()), table, int32(pairs),
		positions, int32(first), int32(length), int32(p.capacity), int32(p.o.Rows), keys, values, keyScales, valueScales, int32(p.capacity),
		flag(d.unrotated(l.owner)), borrowed)
}

// attendCache runs attention of a step's queries, in their place.
func (d *decoder) attendCache(l deviceLayer, y gpu.Ptr) error {
	launch, err := d.attentionLaunch()
	if err != nil {
		return err
	}
	table, pairs, err := d.rotaryTable()
	if err != nil {
		return err
	}
	p := d.plan
	if l.kv == 0 || !d.unrotated(l.owner) {
		pairs = 0
	}
	q, stride := d.queries(l, y), int32(layerStride(l))
	keys, values, keyScales, valueScales := d.cached(l.owner)
	scale := float32(math.Log2E / math.Sqrt(float64(p.cfg.HeadSize())))
	if !launch.fast {
		return d.launchEarly(d.cacheVariant(), "decode_attention_plain", gpu.Grid{Blocks: [3]int{p.o.Rows * p.cfg.KVHeads}, Threads: [3]int{256}, Shared: launch.shared},
			q, stride, keys, values, keyScales, valueScales, int32(p.capacity), q, stride, d.mem.seen, int32(p.cfg.Heads), int32(p.cfg.KVHeads), table, int32(pairs), scale)
	}
	name := "decode_attention"
	if launch.wide {
		name += "_wide"
	}
	if pairs > 0 {
		name += "_turn"
	}
	return d.launchEarly(d.cacheVariant(), name, gpu.Grid{Blocks: [3]int{launch.blocks}, Threads: [3]int{launch.threads}, Shared: launch.shared},
		q, stride, keys, values, keyScales, valueScales, int32(p.capacity), q, stride, d.mem.seen, d.mem.places, d.mem.partial, d.mem.arrived,
		int32(p.cfg.Heads), int32(p.cfg.KVHeads), table, int32(pairs), scale)
}

// forward takes a step's tokens through the layers.
func (d *decoder) forward() error {
	p := d.plan
	launch, err := d.attentionLaunch()
	if err != nil {
		return err
	}
	pieces := p.o.Rows * p.cfg.HiddenSize / lanes
	if err := d.launchEarly(d.stepVariant(), "decode_begin", gpu.Grid{Blocks: [3]int{1 + (pieces+1023)/1024}, Threads: [3]int{1024}},
		d.mem.tokens, d.weights.embed, d.mem.x, d.mem.seen, d.mem.position, d.mem.sampling+samplingStep, int32(p.o.Rows), int32(p.cfg.HiddenSize),
		int32(p.cfg.KVHeads), int32(launch.unit), d.mem.places, int32(launch.teams)); err != nil {
		return err
	}
	few, beside := d.few(), d.beside()
	b := batch{tokens: p.o.Rows, x: d.mem.x, normed: d.mem.normed, y: d.mem.y, inner: d.mem.inner}
	for i, l := range d.weights.layers {
		switch {
		case few:
			err = d.fewLayer(l)
		case beside:
			err = d.layerBeside(l, b)
		default:
			err = d.layer(l, b)
		}
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

// fewName is a kernel for up to 8 rows, or up to 16.
func (d *decoder) fewName(name string) string {
	if d.plan.o.Rows > 8 {
		return name + "_wide"
	}
	return name
}

// fewLayer is layer for few rows: three kernels.
func (d *decoder) fewLayer(l deviceLayer) error {
	table, pairs, err := d.rotaryTable()
	if err != nil {
		return err
	}
	p := d.plan
	rows, hidden, stride := p.o.Rows, p.cfg.HiddenSize, layerStride(l)
	keys, values, _, _ := d.cached(l.owner)
	return inOrder(
		func() error {
			return d.launchEarly(d.linearFile(), d.fewName("decode_few_split"),
				gpu.Grid{Blocks: [3]int{(l.split.rows + 15) / 16}, Threads: [3]int{256}, Shared: fewShared(rows, hidden) + 8*rows*pairs},
				d.mem.x, l.split.weight, l.split.bias, d.mem.y, int32(stride), int32(rows), int32(hidden), float32(p.cfg.LayerNormEps),
				int32(l.kv), int32(l.query), int32(l.mlp), int32(p.cfg.HeadSize()), table, int32(pairs), d.mem.position, keys, values, int32(p.capacity),
				flag(d.unrotated(l.owner)))
		},
		func() error { return d.attendCache(l, d.mem.y) },
		func() error {
			return d.launchEarly(d.linearFile(), d.fewName("decode_few_add"),
				gpu.Grid{Blocks: [3]int{(l.out.rows + 7) / 8}, Threads: [3]int{512}, Shared: fewShared(rows, l.out.cols)},
				d.queries(l, d.mem.y), int32(stride), l.out.weight, l.out.bias, d.mem.x, int32(rows), int32(l.out.rows), int32(l.out.cols))
		},
	)
}

// project computes the logits of every row, a chunk of rows at a time, and hands
// each chunk over, [rows, vocab] from the row first.
func (d *decoder) project(each func(first, rows int) error) error {
	p, cfg := d.plan, d.plan.cfg
	if d.few() {
		blocks := min((cfg.VocabSize+15)/16, 2*d.info.SMs)
		if err := d.launchEarly(d.linearFile(), d.fewName("decode_few_logits"), gpu.Grid{Blocks: [3]int{blocks}, Threads: [3]int{256}, Shared: fewShared(p.o.Rows, cfg.HiddenSize)},
			d.mem.x, d.weights.gain, d.weights.shift, d.weights.head, d.mem.logits, int32(p.o.Rows), int32(cfg.VocabSize), int32(cfg.HiddenSize),
			float32(cfg.LayerNormEps)); err != nil {
			return err
		}
		return each(0, p.o.Rows)
	}
	if err := d.norm(d.mem.x, d.weights.gain, d.weights.shift, d.mem.normed, p.o.Rows); err != nil {
		return err
	}
	return chunks(p.o.Rows, p.head, func(first, rows int) error {
		product := d.headProduct()
		product.in = d.offset(product.in, first*cfg.HiddenSize)
		if err := d.multiplyRows(product, rows); err != nil {
			return err
		}
		return each(first, rows)
	})
}
