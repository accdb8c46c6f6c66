package blas

import (
	"runtime"
	"sync"
	"sync/atomic"
)

var threads atomic.Int32

// SetThreads sets how many goroutines Parallel uses; 0 or less takes all
// processors. Results do not depend on it.
func SetThreads(n int) {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	threads.Store(int32(n))
}

// Threads is the number of goroutines that Parallel uses.
func Threads() int {
	if n := int(threads.Load()); n > 0 {
		return n
	}
	return runtime.GOMAXPROCS(0)
}

// Parallel calls f(0) ... f(n-1), in any order and on several goroutines, and
// returns when all are done. How work is cut into n parts must not depend on
// the number of threads, so that results do not either. A panic in f is raised
// again in the caller.
func Parallel(n int, f func(i int)) {
	workers := min(Threads(), n)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	var panicked atomic.Pointer[any]
	work := func() {
		defer func() {
			if r := recover(); r != nil {
				panicked.CompareAndSwap(nil, &r)
			}
		}()
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			f(i)
		}
	}
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	if r := panicked.Load(); r != nil {
		panic(*r)
	}
}

// Chunks calls f(lo, hi) for consecutive ranges of at most size elements that
// cover [0, n), in parallel as Parallel does.
func Chunks(n, size int, f func(lo, hi int)) {
	Parallel((n+size-1)/size, func(i int) {
		f(i*size, min(n, (i+1)*size))
	})
}
