package op

import (
	"math/bits"
	"sync"

	"mlkv/internal/blas"
)

// pools keep temporary arrays by the binary logarithm of their capacity.
var pools32, pools64 [48]sync.Pool

// scratch returns an array of n elements of any content, to be given back by
// release.
func scratch[T blas.Float](n int) []T {
	class := bits.Len(uint(max(n, 1) - 1))
	if p, ok := poolOf[T](class).Get().(*[]T); ok {
		return (*p)[:n]
	}
	return make([]T, n, 1<<class)
}

func release[T blas.Float](s []T) {
	s = s[:cap(s)]
	poolOf[T](bits.Len(uint(len(s) - 1))).Put(&s)
}

func poolOf[T blas.Float](class int) *sync.Pool {
	var zero T
	if _, ok := any(zero).(float32); ok {
		return &pools32[class]
	}
	return &pools64[class]
}
