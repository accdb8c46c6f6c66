package op

import (
	"math"

	"mlkv/internal/blas"
)

// KVCache holds the keys and values of one owner layer for incremental
// decoding: [R, Capacity, G*D] each.
type KVCache struct {
	Rows, Capacity, Width int
	Keys, Values          []float32
}

// NewKVCache makes a cache in memory of 2*rows*capacity*width elements.
func NewKVCache(rows, capacity, width int, memory []float32) *KVCache {
	n := rows * capacity * width
	return &KVCache{Rows: rows, Capacity: capacity, Width: width, Keys: memory[:n], Values: memory[n : 2*n]}
}

// Put stores consecutive keys and values of a row from a position on.
func (c *KVCache) Put(row, position int, keys, values []float32) {
	at := (row*c.Capacity + position) * c.Width
	copy(c.Keys[at:], keys)
	copy(c.Values[at:], values)
}

// AttendCached is Attention for one new query in each row, over the first
// lengths[r] positions of a cache: q [R, A*D] -> out [R, A*D]. With turn, keys
// are rotated as they are read.
func (o Attention) AttendCached(out, q []float32, c *KVCache, lengths []int, turn *Rotary) {
	d, qw, group := o.HeadSize, o.Heads*o.HeadSize, o.Heads/o.KVHeads
	blas.Parallel(c.Rows*o.KVHeads, func(i int) {
		r, g := i/o.KVHeads, i%o.KVHeads
		n := lengths[r]
		base := r*c.Capacity*c.Width + g*d
		keys, stride := c.Keys[base:], c.Width
		if turn != nil {
			rotated := scratch[float32](n * d)
			defer release(rotated)
			table := rotaryTable[float32](*turn, 0, n)
			for p := range n {
				copy(rotated[p*d:(p+1)*d], keys[p*c.Width:])
				table.turn(rotated[p*d:(p+1)*d], p)
			}
			keys, stride = rotated, d
		}
		s := scratch[float32](n)
		defer release(s)
		for h := g * group; h < (g+1)*group; h++ {
			query, y := q[r*qw+h*d:r*qw+(h+1)*d], out[r*qw+h*d:r*qw+(h+1)*d]
			for p := range n {
				s[p] = dot(query, keys[p*stride:p*stride+d])
			}
			scale(s, float32(1/math.Sqrt(float64(d))))
			l := expSum(s, s, maxOf(s))
			clear(y)
			for p := range n {
				axpy(y, s[p], c.Values[base+p*c.Width:base+p*c.Width+d])
			}
			scale(y, 1/l)
		}
	})
}

// TurnAt rotates one token in each row, row r at positions[r], in place:
// x [R, heads*HeadSize].
func (o Rotary) TurnAt(x []float32, positions []int) {
	w := len(x) / len(positions)
	for r, p := range positions {
		rotaryTable[float32](o, p, 1).turn(x[r*w:(r+1)*w], p)
	}
}
