//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"cmp"
	"fmt"
	"slices"

	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/engine/pack"
	"mlkv/internal/op"
)

// segments say which sequences a stream of tokens holds, as the kernels read it.
type segments struct {
	positions    gpu.Ptr
	narrow, wide queryList
	picked       int // positions that are scored
}

// queryList is an array of queries on the device.
type queryList struct {
	at    gpu.Ptr
	count int
}

// warpQueries is how many queries a warp takes, and a narrow block in all.
const warpQueries = 16

// wideQueries is how many queries a wide block takes: what the shared memory of
// every device has room for.
func wideQueries(headSize int) int {
	if headSize == 256 {
		return 2 * warpQueries
	}
	return 4 * warpQueries
}

// queries are consecutive tokens of a segment, as attention_segments.cu lays
// them out.
type queries struct {
	Prefix, PrefixLength, First, Skipped, Count int32
}

// queryInts is the size of queries in int32.
const queryInts = 5

// divide cuts segments into blocks of at most the given queries: narrow ones for the ends that
// are short, those with the most keys first.
func divide(b pack.Batch, most int) (narrow, wide []queries) {
	for _, s := range b.Segments {
		for at := 0; at < s.Length; at += most {
			q := queries{int32(s.PrefixFirst), int32(s.PrefixLength), int32(s.First), int32(at), int32(min(most, s.Length-at))}
			if q.Count <= warpQueries {
				narrow = append(narrow, q)
			} else {
				wide = append(wide, q)
			}
		}
	}
	longestFirst := func(a, b queries) int {
		return cmp.Compare(b.PrefixLength+b.Skipped+b.Count, a.PrefixLength+a.Skipped+a.Count)
	}
	slices.SortStableFunc(narrow, longestFirst)
	slices.SortStableFunc(wide, longestFirst)
	return narrow, wide
}

// put writes queries as int32 and returns what is left of the room for them.
func put(dst []int32, list []queries) []int32 {
	for i, q := range list {
		copy(dst[i*queryInts:], []int32{q.Prefix, q.PrefixLength, q.First, q.Skipped, q.Count})
	}
	return dst[len(list)*queryInts:]
}

func (d *device) segmentVariant(o op.Attention, queries int) variant {
	defines := fmt.Sprintf("HEAD_SIZE=%d WARPS_OF_A_BLOCK=%d", o.HeadSize, queries/warpQueries)
	if d.pairs {
		defines += " PAIRS=1"
	}
	return d.variant("attention_segments.cu", defines)
}

func (x *executor) segmentVariants(o op.Attention) []variant {
	return []variant{x.segmentVariant(o, warpQueries), x.segmentVariant(o, wideQueries(o.HeadSize))}
}

// attendSegments is attend over a stream of segments.
func (x *executor) attendSegments(o *operation, k attention) error {
	for _, w := range []struct {
		queryList
		queries int
	}{{x.segments.wide, wideQueries(k.HeadSize)}, {x.segments.narrow, warpQueries}} {
		if w.count == 0 {
			continue
		}
		v := x.segmentVariant(k.Attention, w.queries)
		c, err := x.kernels.constants(v, "segments_launch", 3)
		if err != nil {
			return err
		}
		q, key, value, y := o.in[0], o.in[1], o.in[2], o.out[0]
		grid := gpu.Grid{Blocks: [3]int{w.count, k.Heads}, Threads: [3]int{int(c[0])}, Shared: int(c[1])}
		if err := x.launch(v, "attention_segments", grid, x.ptr(q), x.ptr(key), x.ptr(value), x.ptr(y), w.at, int32(k.Heads), int32(k.KVHeads),
			int32(q.stride), int32(key.stride), int32(value.stride), int32(y.stride), attentionScale(k.Attention)); err != nil {
			return err
		}
	}
	return nil
}
