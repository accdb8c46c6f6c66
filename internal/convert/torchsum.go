package convert

import (
	"math/bits"

	"mlkv/internal/checkpoint"
)

// sumBlock is the number of columns that PyTorch's sum over rows takes at once:
// four vectors of eight float32.
const sumBlock = 32

// meanRows averages rows element by element as torch.mean over the first
// dimension does on a CPU, to the bit. The order of its additions
// (aten/src/ATen/native/cpu/SumKernel.cpp) is one for whole blocks of columns
// (vectorized_outer_sum, multi_row_sum) and another for the columns left over
// (row_sum). dst may be one of the rows.
func meanRows(dst []float32, rows [][]float32) {
	whole := len(dst) / sumBlock * sumBlock
	checkpoint.Parallel(len(dst), func(lo, hi int) {
		for e := lo; e < hi; e++ {
			sum := float32(0)
			if e < whole {
				sum = cascadeSum(len(rows), func(i int) float32 { return rows[i][e] })
			} else {
				sum = laneSum(rows, e)
			}
			dst[e] = sum / float32(len(rows))
		}
	})
}

// laneSum adds element e of all rows in four lanes, row i into lane i mod 4;
// rows left over go into the first lane.
func laneSum(rows [][]float32, e int) float32 {
	const lanes = 4
	each := len(rows) / lanes
	var sum [lanes]float32
	for lane := range lanes {
		sum[lane] = cascadeSum(each, func(i int) float32 { return rows[i*lanes+lane][e] })
	}
	for _, row := range rows[each*lanes:] {
		sum[0] += row[e]
	}
	for lane := 1; lane < lanes; lane++ {
		sum[0] += sum[lane]
	}
	return sum[0]
}

// cascadeSum adds at(0) to at(n-1): runs of at least 16 into one accumulator,
// which is then carried into the next of four levels.
func cascadeSum(n int, at func(int) float32) float32 {
	const levels = 4
	power := max(4, ceilLog2(n)/levels)
	step := 1 << power
	var acc [levels]float32
	i := 0
	for i+step <= n {
		for range step {
			acc[0] += at(i)
			i++
		}
		for level := 1; level < levels; level++ {
			acc[level] += acc[level-1]
			acc[level-1] = 0
			if i&((step-1)<<(level*power)) != 0 {
				break
			}
		}
	}
	for ; i < n; i++ {
		acc[0] += at(i)
	}
	for level := 1; level < levels; level++ {
		acc[0] += acc[level]
	}
	return acc[0]
}

// ceilLog2 is the number of bits that n-1 takes; 0 for n of 0 or 1.
func ceilLog2(n int) int {
	if n <= 1 {
		return 0
	}
	return bits.Len(uint(n - 1))
}
