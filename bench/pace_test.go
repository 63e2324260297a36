package bench_test

import (
	"context"
	"errors"
	"sync"
	"time"
)

// pace makes n calls of f, which f is told the numbers of, at a steady rate a second, from as many goroutines in turn
// as keep it up while syncs are slow. from is the time that a call counts from: when it is made, but when it was to be
// made if the goroutine's call before has held it up. So a slow call counts in full for all that come after it, and a
// timer that fires late for none. Its error is of the calls, of which a goroutine makes none after one that fails.
func pace(ctx context.Context, n, rate, loops int, f func(i int, from time.Time) error) error {
	start := time.Now()
	errs := make([]error, loops)
	var wait sync.WaitGroup
	for loop := range loops {
		wait.Go(func() {
			for i := loop; i < n && errs[loop] == nil; i += loops {
				from := start.Add(time.Duration(i) * time.Second / time.Duration(rate))
				if left := time.Until(from); left > 0 {
					select {
					case <-time.After(left):
						from = time.Now()
					case <-ctx.Done():
						errs[loop] = ctx.Err()
						return
					}
				}
				errs[loop] = f(i, from)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
