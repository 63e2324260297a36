package storetest

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/postrider/postrider"
)

// longConcurrent has goroutines that enqueue, claim and complete: every delivery ends once, and nobody is handed what
// another one holds, or what waits for its turn, as checked sees to.
func longConcurrent(x *suite) {
	const enqueuers, workers, each = 3, 5, 40
	for i := range 4 {
		x.hook(fmt.Sprint("hook-", i))
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		held = map[string]bool{}
		ends = map[string]int{}
		want = map[string]bool{}
		errs []error
		busy = enqueuers
	)
	problem := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, fmt.Errorf(format, args...))
	}
	for g := range enqueuers {
		wg.Go(func() {
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				busy--
			}()
			for i := range each {
				e := postrider.Event{ID: fmt.Sprintf("%d-%d", g, i), Project: "p", Type: "t", Time: x.clock.Now(), Payload: []byte(`{}`)}
				if i%4 == 0 {
					e.OrderKey = fmt.Sprint("key-", g%2)
				}
				receipts, err := x.s.Enqueue(x.ctx, []postrider.Item{{Event: e}})
				if err != nil || len(receipts) != 1 || len(receipts[0].Deliveries) != 4 {
					problem("Enqueue: %v, %d receipts", err, len(receipts))
					return
				}
				mu.Lock()
				for _, id := range receipts[0].Deliveries {
					want[id] = true
				}
				mu.Unlock()
			}
		})
	}
	for g := range workers {
		wg.Go(func() {
			for end := time.Now().Add(patience); ; {
				mu.Lock()
				last := busy == 0
				mu.Unlock()
				claims, _, err := x.s.Claim(x.ctx, postrider.ClaimRequest{Max: 7, Lease: lease})
				switch {
				case err != nil:
					problem("Claim: %w", err)
					return
				case time.Now().After(end):
					problem("the end of it: not within %v", patience)
					return
				case len(claims) == 0 && last:
					return
				case len(claims) == 0:
					runtime.Gosched()
					continue
				}
				var outcomes []postrider.Outcome
				mu.Lock()
				for i, c := range claims {
					if held[c.Delivery.ID] {
						errs = append(errs, fmt.Errorf("delivery %s was handed out while it was held", c.Delivery.ID))
					}
					held[c.Delivery.ID] = true
					if o := x.delivered(c); (i+g+c.Delivery.Attempts)%3 > 0 {
						outcomes = append(outcomes, o)
						ends[c.Delivery.ID]++
					} else {
						outcomes = append(outcomes, x.again(c, 0))
					}
				}
				mu.Unlock()
				if _, err := x.s.Stats(x.ctx, postrider.StatsQuery{}); err != nil {
					problem("Stats: %w", err)
				}
				if _, err := x.s.Deliveries(x.ctx, postrider.DeliveryQuery{Limit: 5}); err != nil {
					problem("Deliveries: %w", err)
				}
				// From here on another caller may get them: the store can give them away before Complete returns.
				mu.Lock()
				for _, c := range claims {
					delete(held, c.Delivery.ID)
				}
				mu.Unlock()
				if n, err := x.s.Complete(x.ctx, outcomes); err != nil || n != len(outcomes) {
					problem("Complete: %d of %d, %v", n, len(outcomes), err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		x.fail("calls at the same time to do what they do one after another", "%v", err)
	}
	equal(x, "deliveries made", len(want), enqueuers*each*4)
	for id := range want {
		equal(x, "ends of delivery "+id, ends[id], 1)
	}
	stats := x.counts()
	equal(x, "Stats.Delivered", stats.Delivered, int64(len(want)))
	equal(x, "Stats", stats, x.counted(postrider.DeliveryQuery{Limit: 1000}))
}
