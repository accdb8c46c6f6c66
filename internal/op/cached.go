package op

import (
	"math"

	"mlkv/internal/blas"
)

// Cache holds the keys or the values of one owner layer for incremental decoding:
// [R, G, Capacity, D], so that a head is read in one run.
type Cache struct {
	Rows, KVHeads, Capacity, HeadSize int
	Data                              []float32
}

// Head is where a head of a row begins in Data.
func (c *Cache) Head(row, head int) int { return (row*c.KVHeads + head) * c.Capacity * c.HeadSize }

// Put stores consecutive keys or values of a row, [n, G*D], from a position on.
func (c *Cache) Put(row, position int, x []float32) {
	d := c.HeadSize
	for i := 0; i*d < len(x); i++ {
		at := c.Head(row, i%c.KVHeads) + (position+i/c.KVHeads)*d
		copy(c.Data[at:at+d], x[i*d:])
	}
}

// AttendCached is Attention for one new query in each row, over the first
// lengths[r] positions of caches of one shape: q [R, A*D] -> out [R, A*D]. With turn, keys
// are rotated as they are read.
func (o Attention) AttendCached(out, q []float32, keys, values *Cache, lengths []int, turn *Rotary) {
	d, group := o.HeadSize, o.Heads/o.KVHeads
	if turn == nil {
		blas.Parallel(keys.Rows*o.Heads, func(i int) {
			r := i / o.Heads
			at, n := keys.Head(r, i%o.Heads/group), lengths[r]*d
			o.attendHead(out[i*d:(i+1)*d], q[i*d:(i+1)*d], keys.Data[at:at+n], values.Data[at:at+n])
		})
		return
	}
	blas.Parallel(keys.Rows*o.KVHeads, func(i int) {
		r := i / o.KVHeads
		at, n := keys.Head(r, i%o.KVHeads), lengths[r]
		rotated := scratch[float32](n * d)
		defer release(rotated)
		copy(rotated, keys.Data[at:])
		table := rotaryTable[float32](*turn, 0, n)
		for p := range n {
			table.turn(rotated[p*d:(p+1)*d], p)
		}
		for h := i * group; h < (i+1)*group; h++ {
			o.attendHead(out[h*d:(h+1)*d], q[h*d:(h+1)*d], rotated, values.Data[at:at+n*d])
		}
	})
}

// attendHead is attention of one query head over keys and values [n, D].
func (o Attention) attendHead(out, q, keys, values []float32) {
	d := o.HeadSize
	n := len(keys) / d
	s := scratch[float32](n)
	defer release(s)
	for p := range n {
		s[p] = dot(q, keys[p*d:(p+1)*d])
	}
	scale(s, float32(1/math.Sqrt(float64(d))))
	l := expSum(s, s, maxOf(s))
	clear(out)
	for p := range n {
		axpy(out, s[p], values[p*d:(p+1)*d])
	}
	scale(out, 1/l)
}

// TurnAt rotates one token in each row, row r at positions[r], in place:
// x [R, heads*HeadSize].
func (o Rotary) TurnAt(x []float32, positions []int) {
	w := len(x) / len(positions)
	for r, p := range positions {
		rotaryTable[float32](o, p, 1).turn(x[r*w:(r+1)*w], p)
	}
}
