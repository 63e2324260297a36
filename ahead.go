package postrider

import (
	"slices"
	"time"
)

// While a store answers Claim, workers become free: next to none with a store in memory, most of them with one that takes
// milliseconds. They would wait for the next call, and small calls cost a server as much as large ones. So Claim is asked
// for as many more as became free during the last call.
//
// What comes for a worker that is not free waits for one, and goes back to the store if it may no longer be sent, or after
// aheadTime: then the workers hang, its lease is to cover its request, and a webhook that is paused is to get nothing. What
// has a token of a RateLimit does not wait: the token is for a request that begins at once, and both go back.
const aheadTime = 100 * time.Millisecond

// expect notes how many workers became free during a call of Claim that was for so many.
func (e *engine) expect(free int) {
	e.settle()
	e.coming = max(0, e.free()-free)
}

// begin hands flights that wait to workers that are free.
func (e *engine) begin() {
	n, now := 0, time.Now()
	for free := e.free(); n < len(e.ready) && free > 0; free-- {
		f := e.ready[n]
		n++
		f.start = now
		if f.hook.sluggish && e.slow.n < e.cfg.MaxSlow {
			e.slowDown(f)
			free++ // it holds no worker
		} else {
			e.young.push(f)
		}
		if e.spawned < e.young.n+e.slow.n {
			e.spawned++
			e.workers.Add(1)
			go e.work()
		}
		e.jobs <- f
	}
	e.ready = slices.Delete(e.ready, 0, n)
}

// recall gives back those that wait and may not be sent any more, or all. One that was claimed before a failure of its
// webhook landed may not, even if that is recorded by now: it may have stopped the webhook.
func (e *engine) recall(all bool) {
	if len(e.ready) == 0 {
		return
	}
	all = all || time.Since(e.ready[0].start) >= aheadTime
	n := 0
	for _, f := range e.ready {
		if !all && !f.metered && f.failures == f.hook.failures && !e.barred(f.hook, f.hook.flights-1) {
			e.ready[n] = f
			n++
			continue
		}
		if f.metered {
			f.hook.bucket.give()
		}
		f.hook.flights--
		e.limit(f.hook)
		e.enqueue(Outcome{DeliveryID: f.claim.Delivery.ID, Token: f.claim.Token}, nil)
		e.reuse(f)
	}
	clear(e.ready[n:])
	e.ready = e.ready[:n]
}
