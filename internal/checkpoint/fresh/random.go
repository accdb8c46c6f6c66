package fresh

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"

	"mlkv/internal/checkpoint"
)

// block is the number of elements drawn from one stream. Every block of every
// tensor has a ChaCha8 stream of its own, keyed by the seed, the tensor's name
// and the block's number, so that the order of drawing does not matter.
const block = 1 << 14

// Normal fills dst with draws from a normal distribution of mean 0. They
// depend on the seed and the tensor's name alone.
func Normal(dst []float32, std float64, seed int64, name string) {
	fill(dst, seed, name, func(dst []float32, r *rand.ChaCha8) {
		for i := 0; i < len(dst); i += 2 {
			// Box and Muller's pair of normal numbers.
			radius := std * math.Sqrt(-2*math.Log(1-unit(r)))
			sin, cos := math.Sincos(2 * math.Pi * unit(r))
			dst[i] = float32(radius * cos)
			if i+1 < len(dst) {
				dst[i+1] = float32(radius * sin)
			}
		}
	})
}

// Uniform fills dst with draws from [-bound, bound). They depend on the seed
// and the tensor's name alone.
func Uniform(dst []float32, bound float64, seed int64, name string) {
	fill(dst, seed, name, func(dst []float32, r *rand.ChaCha8) {
		for i := range dst {
			dst[i] = float32(bound * (2*unit(r) - 1))
		}
	})
}

// unit draws from [0, 1).
func unit(r *rand.ChaCha8) float64 { return float64(r.Uint64()>>11) * 0x1p-53 }

func fill(dst []float32, seed int64, name string, draw func([]float32, *rand.ChaCha8)) {
	blocks := (len(dst) + block - 1) / block
	// Parallel is meant for elements; one block counts as many.
	checkpoint.Parallel(blocks*block, func(lo, hi int) {
		for b := (lo + block - 1) / block; b*block < hi; b++ {
			draw(dst[b*block:min((b+1)*block, len(dst))], rand.NewChaCha8(key(seed, name, b)))
		}
	})
}

func key(seed int64, name string, number int) [32]byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(seed))
	b = binary.LittleEndian.AppendUint64(b, uint64(number))
	return sha256.Sum256(append(b, name...))
}
