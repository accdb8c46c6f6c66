package op

import (
	"slices"

	"mlkv/internal/blas"
)

// Segment is a run of consecutive tokens in a stream [N] of many sequences.
// Its tokens attend to the run of tokens Prefix, which come before it in their
// sequence, and to themselves up to their own place. Several segments may
// continue the same prefix.
type Segment struct {
	First, Length             int // its tokens in the stream
	PrefixFirst, PrefixLength int // the tokens before them in the sequence
}

// AttendSegments is Attention over a stream of segments: q [N, A*D], k and v
// [N, G*D] -> out [N, A*D]. What a segment's tokens receive depends on its own
// and its prefix's rows alone. Rows that belong to no segment become 0.
func (o Attention) AttendSegments(out, q, k, v []float32, segments []Segment) {
	clear(out)
	type block struct{ segment, lo, hi int } // queries of a segment
	var blocks []block
	for i, s := range segments {
		for lo := 0; lo < s.Length; lo += queryBlock {
			blocks = append(blocks, block{i, lo, min(s.Length, lo+queryBlock)})
		}
	}
	// The blocks with the most keys go first, so that no thread is left with one.
	slices.SortStableFunc(blocks, func(a, b block) int {
		return segments[b.segment].PrefixLength + b.hi - segments[a.segment].PrefixLength - a.hi
	})
	d, qw, kw, group := o.HeadSize, o.Heads*o.HeadSize, o.KVHeads*o.HeadSize, o.Heads/o.KVHeads
	blas.Parallel(len(blocks)*o.KVHeads, func(i int) {
		b, g := blocks[i/o.KVHeads], i%o.KVHeads
		s := segments[b.segment]
		keys, values := s.gather(k, kw, d, g, b.hi), s.gather(v, kw, d, g, b.hi)
		for h := g * group; h < (g+1)*group; h++ {
			lo, hi := s.First+b.lo, s.First+b.hi
			attendBlock(o, head(out, qw, d, h, lo, hi), head(q, qw, d, h, lo, hi), keys.Matrix, values.Matrix, s.PrefixLength+b.lo, nil)
		}
		keys.release()
		values.release()
	})
}

// gathered is a matrix that may lie in scratch memory.
type gathered struct {
	blas.Matrix[float32]
	own bool
}

func (g gathered) release() {
	if g.own {
		release(g.Data)
	}
}

// gather is head h of the prefix's rows and the segment's first n: copied, where
// the two do not lie one after another.
func (s Segment) gather(x []float32, width, headSize, h, n int) gathered {
	if s.PrefixLength == 0 || s.PrefixFirst+s.PrefixLength == s.First {
		first := s.First - s.PrefixLength
		return gathered{head(x, width, headSize, h, first, s.First+n), false}
	}
	buf := scratch[float32]((s.PrefixLength + n) * headSize)
	for i := range s.PrefixLength + n {
		row := s.PrefixFirst + i
		if i >= s.PrefixLength {
			row = s.First + i - s.PrefixLength
		}
		copy(buf[i*headSize:(i+1)*headSize], x[row*width+h*headSize:])
	}
	return gathered{blas.Dense(s.PrefixLength+n, headSize, buf), true}
}

// TurnAll rotates a stream of tokens in place, each at its own position:
// x [N, heads*HeadSize], positions [N].
func (o Rotary) TurnAll(x []float32, positions []int32) {
	w := len(x) / len(positions)
	table := rotaryTable[float32](o, 0, int(slices.Max(positions))+1)
	blas.Chunks(len(positions), 64, func(lo, hi int) {
		for n := lo; n < hi; n++ {
			table.turn(x[n*w:(n+1)*w], int(positions[n]))
		}
	})
}
