package data

import "math/bits"

// permutation is a pseudo-random order of 0..n-1 that needs no memory: a
// Feistel network over the smallest even number of bits that holds n, walked
// until it lands below n.
type permutation struct {
	n    uint64
	half uint // bits of one half
	keys [6]uint64
}

// newPermutation returns the order that a key and a round choose, n >= 1.
func newPermutation(n int64, key int64, round int64) permutation {
	p := permutation{n: uint64(n), half: uint(max(1, (bits.Len64(uint64(n-1))+1)/2))}
	state := mix(uint64(key)) ^ mix(uint64(round)+0x632BE59BD9B4E019)
	for i := range p.keys {
		state += 0x9E3779B97F4A7C15
		p.keys[i] = mix(state)
	}
	return p
}

// at is the i-th of the order, 0 <= i < n.
func (p *permutation) at(i int64) int64 {
	mask := uint64(1)<<p.half - 1
	x := uint64(i)
	for {
		left, right := x>>p.half, x&mask
		for _, k := range p.keys {
			left, right = right, left^(mix(right^k)&mask)
		}
		x = left<<p.half | right
		if x < p.n {
			return int64(x)
		}
	}
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}
