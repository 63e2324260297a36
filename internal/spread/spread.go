// Package spread divides work on many items among the processors.
package spread

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Part is how many items are worth a goroutine.
const Part = 64

// Over calls f for each Part of n items, from 0, Part, 2*Part and so on, the last of them shorter; in no order and from
// as many goroutines as can run, the caller's among them. It returns when all calls have. If one panics, it panics with
// that in the caller's goroutine.
func Over(n int, f func(from, to int)) { Start(n, f)() }

// Start is Over in two halves: the calls begin in other goroutines, if more than one can run, and finish makes those
// that are left and returns when all have returned. finish must be called, and may be from several goroutines: each
// waits, and each panics if a call did.
func Start(n int, f func(from, to int)) (finish func()) {
	var next atomic.Int64
	var failed atomic.Pointer[any]
	work := func() {
		defer func() {
			if v := recover(); v != nil {
				failed.CompareAndSwap(nil, &v)
			}
		}()
		for from := int(next.Add(Part)) - Part; from < n; from = int(next.Add(Part)) - Part {
			f(from, min(from+Part, n))
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (n+Part-1)/Part) - 1 {
		others.Go(work)
	}
	return sync.OnceFunc(func() {
		work()
		others.Wait()
		if v := failed.Load(); v != nil {
			panic(*v)
		}
	})
}
