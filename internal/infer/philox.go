package infer

// philox returns the block of four words that Philox4x32-10 gives for a key
// and a counter (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011). A draw depends on nothing but its place, so a row samples the same
// tokens in any batch and on any device.
func philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	const (
		m0, m1 = 0xd2511f53, 0xcd9e8d57
		w0, w1 = 0x9e3779b9, 0xbb67ae85
	)
	c := counter
	for range 10 {
		p0, p1 := uint64(m0)*uint64(c[0]), uint64(m1)*uint64(c[2])
		c = [4]uint32{
			uint32(p1>>32) ^ c[1] ^ key[0], uint32(p1),
			uint32(p0>>32) ^ c[3] ^ key[1], uint32(p0),
		}
		key[0] += w0
		key[1] += w1
	}
	return c
}

// Uniform returns the number in [0, 1), with 53 random bits, that a seed gives
// for a step of a row.
func Uniform(seed uint64, row, step int) float64 {
	b := philox([4]uint32{uint32(step), uint32(row), uint32(uint64(row) >> 32), 0},
		[2]uint32{uint32(seed), uint32(seed >> 32)})
	return float64(uint64(b[0])>>5<<26|uint64(b[1])>>6) / (1 << 53)
}
