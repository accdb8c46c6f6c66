//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"

	"mlkv/internal/engine/cuda/gpu"
)

// device is what everything on one GPU shares.
type device struct {
	gpu     *gpu.Device
	info    gpu.Info
	stream  gpu.Stream
	kernels *kernelSet
	blas    *gpu.Blas
	elem    gpu.Type // of activations
	pairs   bool     // whether products take float32 numbers as pairs of bf16
	plan    func(gpu.Product) (matmul, error)
	plans   map[gpu.Product]matmul
	tables  map[tableKey]*gpu.Arena // of rotary
}

// matmul is a product that is ready to run: cuBLASLt's, unless a test puts another
// in its place.
type matmul interface {
	Run(gpu.Stream, gpu.Operands) error
	Close()
}

// launch puts a kernel of a variant into the stream.
func (d *device) launch(v variant, name string, g gpu.Grid, args ...any) error {
	k, err := d.kernels.kernel(v, name)
	if err != nil {
		return err
	}
	return k.Launch(d.stream, g, args...)
}

// variant is a kernel file for the type of activations, with further constants.
func (d *device) variant(file string, defines string) variant {
	storage := "STORAGE=16"
	if d.elem == gpu.Float32 {
		storage = "STORAGE=32"
	}
	if defines != "" {
		storage += " " + defines
	}
	return variant{file, storage}
}

func (d *device) sizes() sizes { return sizes{d.elem.Size()} }

// product returns a product that is ready to run.
func (d *device) product(p gpu.Product) (matmul, error) {
	if m := d.plans[p]; m != nil {
		return m, nil
	}
	m, err := d.plan(p)
	if err != nil {
		return nil, err
	}
	d.plans[p] = m
	return m, nil
}

// executor runs a program's operations in the memory of its owner.
type executor struct {
	*device
	p      *program
	arena  *arena
	params *params // nil where all parameters are frozen
	base   bases
	// segments tell the sequences of a stream apart; nil where rows of one
	// length do.
	segments *segments
	// replace are the operations that write gradients in the place of what is there
	// while first is set, which it is in the first micro-batch of a step.
	replace map[*operation]bool
	first   bool
}

// adds reports whether an operation adds the gradients that it makes to what is
// there.
func (x *executor) adds(o *operation) bool { return !x.first || !x.replace[o] }

// bases are the addresses that an executor's matrices are relative to.
type bases struct {
	arena     gpu.Ptr
	weights   gpu.Ptr // in the type of activations
	masters   gpu.Ptr // in float32
	gradients gpu.Ptr
	frozen    *frozen // the teacher's parameters, or all
	inputs    map[*matrix]gpu.Ptr
	workspace gpu.Ptr // of products
}

// ptr is the address of a matrix's first element.
func (x *executor) ptr(m *matrix) gpu.Ptr {
	root, offset := m.root()
	size := x.sizes().of(root.elem)
	if constant := root.role == weight || root.role == master; constant && (root.taught || x.params == nil) {
		return x.base.frozen.ptr(root) + gpu.Ptr(int64(offset)*size)
	}
	at := func(base gpu.Ptr) gpu.Ptr {
		return base + gpu.Ptr(int64(x.params.offset[root.params[0]]+offset)*size)
	}
	switch root.role {
	case weight:
		return at(x.base.weights)
	case master:
		return at(x.base.masters)
	case gradient:
		return at(x.base.gradients)
	case input:
		return x.base.inputs[root]
	}
	place, ok := x.arena.offset[root]
	if !ok {
		panic(fmt.Sprintf("cuda: matrix %v has no place", m))
	}
	return x.base.arena + gpu.Ptr(place+int64(offset)*size)
}

// prepare compiles the kernels and tunes the products that the program needs.
func (x *executor) prepare() error {
	seen := map[variant]bool{}
	var list []variant
	for _, o := range x.p.ops {
		for _, v := range x.variants(o) {
			if !seen[v] {
				seen[v] = true
				list = append(list, v)
			}
		}
	}
	if err := x.kernels.load(list...); err != nil {
		return err
	}
	for _, o := range x.p.ops {
		for _, p := range x.products(o) {
			if _, err := x.product(p); err != nil {
				return err
			}
			if p.Add && x.replace[o] {
				p.Add, p.StrideC = false, 0
				if _, err := x.product(p); err != nil {
					return err
				}
			}
		}
		switch k := o.kind.(type) {
		case rotary:
			if _, err := x.table(k.Rotary); err != nil {
				return err
			}
		case attentionGrad:
			if _, err := x.turns(k, k.turnQuery || k.turnKey); err != nil {
				return err
			}
		}
	}
	return nil
}

// variants are the kernel files that an operation uses.
func (x *executor) variants(o *operation) []variant {
	switch k := o.kind.(type) {
	case embedding, embeddingGrad, pick:
		if x.pairs {
			return []variant{x.embedVariant(), x.pairsVariant()}
		}
		return []variant{x.embedVariant()}
	case norms, normsGrad:
		return []variant{x.normVariant(o.in[0].cols)}
	case rotary:
		return []variant{x.rotaryVariant()}
	case attention:
		if x.segments != nil {
			return x.segmentVariants(k.Attention)
		}
		return []variant{x.attentionVariant(k.Attention)}
	case attentionGrad:
		return []variant{x.attentionVariant(k.Attention), x.linearVariant()}
	case gelu, geluGrad:
		return []variant{x.geluVariant(), x.linearVariant()}
	case columnSum:
		return []variant{x.linearVariant()}
	case sum:
		return []variant{x.sumVariant(o.out[0].cols)}
	case head, distill, score:
		return []variant{x.headVariant(o.in[1].rows)}
	}
	return nil
}

// products are the matrix products that an operation makes.
func (x *executor) products(o *operation) []gpu.Product {
	switch k := o.kind.(type) {
	case product:
		return x.parts(x.describe(o, k))
	case head:
		return x.headProducts(o, k.grad)
	case distill:
		return x.distillProducts(o)
	case score:
		return x.headProducts(o, false)
	}
	return nil
}

// run puts the whole program into the stream.
func (x *executor) run() error {
	for _, o := range x.p.ops {
		if err := x.step(o); err != nil {
			return fmt.Errorf("%T of layer %d: %w", o.kind, o.layer, err)
		}
	}
	return nil
}

func (x *executor) step(o *operation) error {
	switch k := o.kind.(type) {
	case embedding:
		if x.pairs {
			return x.lookUpPairs(o.in[0], o.in[1], o.out[0])
		}
		return x.lookUp(o.in[0], o.in[1], o.out[0])
	case pick:
		return x.lookUp(o.in[1], o.in[0], o.out[0])
	case embeddingGrad:
		return x.embeddingGrad(o)
	case norms:
		return x.norms(o, k)
	case normsGrad:
		return x.normsGrad(o, k)
	case product:
		return x.multiply(o, k)
	case rotary:
		return x.rotate(o, k)
	case attention:
		return x.attend(o, k)
	case attentionGrad:
		return x.attentionGrad(o, k)
	case gelu:
		return x.gelu(o, k)
	case geluGrad:
		return x.geluGrad(o, k)
	case columnSum:
		return x.columnSum(o)
	case sum:
		return x.sum(o)
	case duplicate:
		return x.stream.Copy(x.ptr(o.out[0]), x.ptr(o.in[0]), int64(o.in[0].size())*4)
	case head:
		return x.head(o, k)
	case distill:
		return x.distill(o, k)
	case score:
		return x.score(o)
	}
	return fmt.Errorf("the CUDA engine cannot run %v", o)
}

// null is the address that kernels take for an operand that is not there.
const null = gpu.Ptr(0)
