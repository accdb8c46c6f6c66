package checkpoint

import (
	"runtime"
	"sync"
)

// grain is the least number of elements worth a goroutine of their own.
const grain = 1 << 16

// Parallel calls f on ranges that cover 0 to n, on all processors. The ranges
// are disjoint; f must not depend on where they are cut.
func Parallel(n int, f func(lo, hi int)) {
	workers := min(runtime.GOMAXPROCS(0), (n+grain-1)/grain)
	if workers <= 1 {
		f(0, n)
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { f(n*w/workers, n*(w+1)/workers) })
	}
	wg.Wait()
}
