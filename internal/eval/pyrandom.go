package eval

import (
	"math"
	"math/bits"
)

// pyRandom is Python's random.Random: MT19937 (Matsumoto and Nishimura, 1998)
// with CPython's seeding and derived draws (Lib/random.py, _randommodule.c).
// The harness shuffles and resamples with it, so its figures can be rebuilt.
type pyRandom struct {
	state [624]uint32
	words [624]uint32 // the state tempered, ready to be drawn
	next  int         // of words
}

// newPyRandom is random.Random(seed) for a seed that fits 32 bits.
func newPyRandom(seed uint32) *pyRandom {
	r := &pyRandom{}
	s := &r.state
	s[0] = 19650218
	for i := 1; i < len(s); i++ {
		s[i] = 1812433253*(s[i-1]^s[i-1]>>30) + uint32(i)
	}
	// init_by_array with the seed as its only key.
	i := 1
	next := func() {
		if i++; i == len(s) {
			s[0], i = s[len(s)-1], 1
		}
	}
	for range s {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1664525) + seed
		next()
	}
	for range len(s) - 1 {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1566083941) - uint32(i)
		next()
	}
	s[0] = 1 << 31
	r.next = len(s)
	return r
}

// refill advances the state and tempers it.
func (r *pyRandom) refill() {
	const n, m = 624, 397
	s := &r.state
	mix := func(a, b uint32) uint32 {
		y := a&(1<<31) | b&(1<<31-1)
		return y>>1 ^ -(y&1)&0x9908b0df
	}
	for i := range n - m {
		s[i] = s[i+m] ^ mix(s[i], s[i+1])
	}
	for i := n - m; i < n-1; i++ {
		s[i] = s[i+m-n] ^ mix(s[i], s[i+1])
	}
	s[n-1] = s[m-1] ^ mix(s[n-1], s[0])
	for i, y := range s {
		y ^= y >> 11
		y ^= y << 7 & 0x9d2c5680
		y ^= y << 15 & 0xefc60000
		r.words[i] = y ^ y>>18
	}
	r.next = 0
}

func (r *pyRandom) uint32() uint32 {
	if r.next == len(r.words) {
		r.refill()
	}
	r.next++
	return r.words[r.next-1]
}

// float64 is random(): a number in [0, 1) with 53 random bits.
func (r *pyRandom) float64() float64 {
	a := r.uint32()
	return unit(a, r.uint32())
}

// unit is the number that random() makes of two words.
func unit(a, b uint32) float64 { return (float64(a>>5)*(1<<26) + float64(b>>6)) / (1 << 53) }

// pairs are the words of the next random() calls, two each, at least of one and
// at most of n. An odd number of words must not have been drawn before.
func (r *pyRandom) pairs(n int) []uint32 {
	if r.next == len(r.words) {
		r.refill()
	}
	words := r.words[r.next:min(len(r.words), r.next+2*n)]
	r.next += len(words)
	return words
}

// below is _randbelow(n): a number from 0 to n-1.
func (r *pyRandom) below(n int) int {
	shift := 32 - bits.Len32(uint32(n))
	for {
		if k := int(r.uint32() >> shift); k < n {
			return k
		}
	}
}

// sample is sample() of a list of n items: the indices of k different ones.
func (r *pyRandom) sample(n, k int) []int {
	out := make([]int, k)
	setSize := 21
	if k > 5 {
		setSize += 1 << (2 * int(math.Ceil(math.Log(float64(3*k))/math.Log(4))))
	}
	if n <= setSize {
		pool := make([]int, n)
		for i := range pool {
			pool[i] = i
		}
		for i := range out {
			j := r.below(n - i)
			out[i], pool[j] = pool[j], pool[n-i-1]
		}
		return out
	}
	seen := map[int]bool{}
	for i := range out {
		j := r.below(n)
		for seen[j] {
			j = r.below(n)
		}
		seen[j], out[i] = true, j
	}
	return out
}

// shuffle is shuffle() of a list of n items.
func (r *pyRandom) shuffle(n int, swap func(i, j int)) {
	for i := n - 1; i > 0; i-- {
		swap(i, r.below(i+1))
	}
}
