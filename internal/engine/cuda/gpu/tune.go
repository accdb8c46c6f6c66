//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

// #include "blaslt.h"
import "C"

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"unsafe"
)

const (
	suggestions = 16   // algorithms that are timed for a product
	untimedRuns = 2    // of each, in which its kernel is loaded and the clock settles
	timedRuns   = 11   // of each, after those
	margin      = 0.98 // share of the first suggestion's time that a later one must beat
)

// Plan makes a product ready to run: its algorithm comes from the cache, or is
// the fastest of cuBLASLt's suggestions, timed on the device on matrices of the
// product's size, which are allocated for that time.
func (b *Blas) Plan(s Stream, p Product) (*Matmul, error) {
	m := &Matmul{p: p, blas: b}
	shape := p.shape()
	if err := blasCheck("product "+p.String(), C.mlkv_lt_plan_create(&shape, &m.plan)); err != nil {
		return nil, err
	}
	name := Key(b.device, fmt.Sprint(b.version), fmt.Sprintf("%+v", p)) + ".algo"
	if !m.restore(b.cache.Get(name)) {
		if err := m.tune(s); err != nil {
			m.Close()
			return nil, err
		}
		algo := unsafe.Slice((*byte)(unsafe.Pointer(&m.algo)), unsafe.Sizeof(m.algo))
		m.restore(b.cache.PutNew(name, slices.Clone(algo)), true)
	}
	return m, nil
}

// restore takes an algorithm from the cache if it still fits.
func (m *Matmul) restore(data []byte, ok bool) bool {
	if !ok || len(data) != int(unsafe.Sizeof(m.algo)) {
		return false
	}
	var algo C.mlkv_lt_algo
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&algo)), len(data)), data)
	if C.mlkv_lt_check(m.blas.handle, m.plan, &algo, WorkspaceSize) != 0 {
		return false
	}
	m.algo = algo
	return true
}

func (m *Matmul) tune(s Stream) error {
	var algos [suggestions]C.mlkv_lt_algo
	var found C.int
	if err := blasCheck("algorithms for the product "+m.p.String(),
		C.mlkv_lt_suggest(m.blas.handle, m.plan, WorkspaceSize, &algos[0], suggestions, &found)); err != nil {
		return err
	}
	m.algo = algos[0]
	if found == 1 {
		return nil
	}
	ops, arena, err := m.scratch(s)
	if err != nil {
		return err
	}
	defer arena.Free()
	list := make([]*C.mlkv_lt_algo, found)
	for i := range list {
		list[i] = &algos[i]
	}
	times, err := m.time(s, ops, list...)
	if err != nil {
		return err
	}
	best := times[0] * margin
	for i, t := range times {
		if t < best {
			best, m.algo = t, algos[i]
		}
	}
	return nil
}

// time is the median time of each algorithm's runs in milliseconds. They take
// turns, as the clock falls under load: whatever ran last would seem slow.
func (m *Matmul) time(s Stream, o Operands, algos ...*C.mlkv_lt_algo) ([]float64, error) {
	runs := (untimedRuns + timedRuns) * len(algos)
	events := make([]Event, runs+1)
	for i := range events {
		var err error
		if events[i], err = NewEvent(true); err != nil {
			return nil, err
		}
		defer events[i].Destroy()
	}
	for i := range events {
		if err := events[i].Record(s); err != nil {
			return nil, err
		}
		if i == runs {
			break
		}
		if err := m.run(s, algos[i%len(algos)], o, o.C); err != nil {
			return nil, err
		}
	}
	if err := s.Synchronize(); err != nil {
		return nil, err
	}
	medians := make([]float64, len(algos))
	for a := range algos {
		times := make([]float64, timedRuns)
		for r := range times {
			i := (untimedRuns+r)*len(algos) + a
			var err error
			if times[r], err = events[i].Elapsed(events[i+1]); err != nil {
				return nil, err
			}
		}
		slices.Sort(times)
		medians[a] = times[timedRuns/2]
	}
	return medians, nil
}

// scratch makes operands of the product's size that hold random numbers: zeros
// would run faster than real data.
func (m *Matmul) scratch(s Stream) (Operands, *Arena, error) {
	sh := m.p.shape()
	span := func(rows, ld C.int64_t, t Type) int64 {
		return (int64(rows)*int64(ld)*t.Size() + Alignment - 1) / Alignment * Alignment
	}
	rows := func(trans bool, yes, no int) C.int64_t {
		if trans {
			return C.int64_t(yes)
		}
		return C.int64_t(no)
	}
	sizes := []int64{
		span(rows(m.p.TransA, m.p.K, m.p.M), sh.ldb, m.p.In), span(rows(m.p.TransB, m.p.N, m.p.K), sh.lda, m.p.In),
		span(C.int64_t(m.p.M), max(sh.ldc, sh.ldd), m.p.Out), span(1, C.int64_t(max(m.p.M, m.p.N)), Float32), WorkspaceSize,
	}
	total := int64(0)
	for _, n := range sizes {
		total += n
	}
	arena, err := NewArena(total)
	if err != nil {
		return Operands{}, nil, err
	}
	at, ptrs := int64(0), make([]Ptr, len(sizes))
	for i, n := range sizes {
		ptrs[i] = arena.At(at, n)
		at += n
	}
	o := Operands{A: ptrs[0], B: ptrs[1], C: ptrs[2], D: ptrs[2], Vector: ptrs[3], Workspace: ptrs[4]}
	for i, n := range sizes[:2] {
		if err := randomize(s, ptrs[i], n, m.p.In); err != nil {
			_ = arena.Free()
			return Operands{}, nil, err
		}
	}
	return o, arena, s.Zero(o.C, sizes[2])
}

// randomize fills memory with repeated copies of a block of numbers in (-1, 1).
func randomize(s Stream, p Ptr, size int64, t Type) error {
	block := make([]uint32, min(size, 1<<20)/4)
	r := rand.New(rand.NewPCG(1, 2))
	number := func() uint32 { return r.Uint32()&0x807fffff | (r.Uint32N(8)+119)<<23 }
	for i := range block {
		block[i] = number()
		if t == BFloat16 {
			block[i] = block[i]>>16 | number()&0xffff0000
		}
	}
	if err := Upload(p, block); err != nil {
		return err
	}
	for done := sizeOf[uint32](len(block)); done < size; done *= 2 {
		if err := s.Copy(p+Ptr(done), p, min(done, size-done)); err != nil {
			return err
		}
	}
	return nil
}
