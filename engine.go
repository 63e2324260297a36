package postrider

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// How Run works. One goroutine, the claim loop, decides; workers make the requests; the completer records what became
// of them, and the teller says so; helpers watch the store, delete what is old, and cancel what waits for deleted
// webhooks.
//
//	loop:      settle what has landed -> Claim for the workers -> dispatch flights -> sleep until woken
//	worker:    flight -> attempt -> land: hand the outcome to the completer, tell the loop
//	completer: take the outcomes there are -> Complete -> wake the loop
//	teller:    read what became of webhooks that failed -> log, Config.Observe
//
// What holds:
//
//  1. A claim is asked for only when a worker is free or, as it seems, about to be, so that its request starts at once
//     or goes back before long (see ahead.go), and the lease, which is longer than any request, covers it.
//  2. At most Concurrency requests hold a worker. One that has run for slowAfter gives its worker back, as long as no
//     more than MaxSlow have; then webhooks with a slow request get no more. A request to a webhook whose last one was
//     slow holds none from the start: or all that wait for ten slow receivers would take every worker, 2 s each.
//  3. A webhook that has not succeeded in this Run, or whose last attempt failed, has one request in flight.
//  4. A claim ends as an outcome that is recorded, or dropped and logged; or its lease runs out.
//  5. While outcomes cannot be recorded, nothing is claimed.
//  6. The outcomes that wait to be recorded are at most maxUnrecorded and those of the requests in flight.
//  7. A webhook gets nothing more while a failure of it is unrecorded: only then the store knows whether it is to stop.
//  8. A request of a webhook with a RateLimit begins with a token. Without one the webhook costs nothing until it has
//     the next.
const (
	maxClaims     = 1 << 10 // of a call
	maxUnrecorded = 4 << 10
	maxKnown      = 16 << 10 // webhooks that the loop remembers, if fewer are in flight
	leaseMargin   = 30 * time.Second
	slowAfter     = 2 * time.Second
	storeTime     = 10 * time.Second       // for a call of the store, except Wait
	firstPause    = 100 * time.Millisecond // after ClassLocal; doubles to lastPause
	lastPause     = 5 * time.Second
)

// healthyLimit leaves it to MaxInFlight how many requests a webhook has in flight.
const healthyLimit = maxPerHook

// engine is one Run.
type engine struct {
	d     *Dispatcher
	store Store
	cfg   Config
	log   *slog.Logger
	lease time.Duration

	ctx      context.Context // ends with Run's: nothing new is begun
	stop     context.CancelFunc
	ended    chan time.Time  // buffered(1): when ctx ended
	claiming context.Context // for Claim: ends claimTime after ctx, or with Config.Drain
	attempts context.Context // for requests: ends at the cut-off
	cutOff   context.CancelFunc
	calls    context.Context // for Complete: ends last, or when the store is closed
	cutCalls context.CancelFunc

	wake     chan struct{} // buffered(1): the loop looks again
	found    chan struct{} // buffered(1): Wait has returned
	outcomes chan struct{} // buffered(1): the completer looks again
	jobs     chan *flight
	workers  sync.WaitGroup
	helpers  sync.WaitGroup
	recorder sync.WaitGroup
	reports  chan []told // from the completer to the teller

	full    atomic.Bool // all workers are busy, as of the last look of the loop
	failing atomic.Bool // outcomes cannot be recorded

	// Of the completer alone.
	trouble streak // of recording
	proved  bool   // something was recorded since the last failure

	// Of the teller alone.
	health map[string]health // of webhooks that have failed, as last seen

	// Of the claim loop alone.
	hooks     map[string]*hook   // what it knows of webhooks, by ID
	limits    map[string]int     // ClaimRequest.Limits, kept in step with hooks
	slowHooks map[*hook]struct{} // those with a slow request
	young     flightList         // in flight for less than slowAfter, in the order of their start
	slow      flightList         // the others in flight, which hold no worker up to MaxSlow
	ready     []*flight          // that wait for a worker
	coming    int                // workers that became free during the last call of Claim
	spare     []*flight          // to be used again
	spawned   int                // workers
	crowded   bool               // MaxSlow is reached, and limits says so
	pause     time.Duration      // the last one after ClassLocal; 0 once a request was made again
	holdUntil time.Time          // nothing is claimed before
	mostHooks int                // when to forget some
	throttled throttled          // webhooks that wait for a token
	metered   []*hook            // those with a RateLimit that this call of Claim handed out something of
	again     bool               // another call may find more

	mu      sync.Mutex // guards what follows; nothing is called under it
	landed  []*flight  // not yet settled
	wanted  int        // the loop is woken when so many have landed; 0: it is not
	queue   batch      // to be recorded
	settled []*hook    // one for each outcome that bore on it and is recorded
	target  int        // the completer is woken when the queue is so long; 0: it is not
	taken   int        // outcomes that the completer has in hand
	closing bool       // the completer ends once the queue is empty
	orphans map[string]orphan
	failure error // ErrClosed from the store
}

func newEngine(ctx context.Context, d *Dispatcher) *engine {
	e := &engine{
		d: d, store: d.store, cfg: d.cfg, log: d.log,
		lease:     d.cfg.MaxTimeout + leaseMargin,
		ended:     make(chan time.Time, 1),
		wake:      make(chan struct{}, 1),
		found:     make(chan struct{}, 1),
		outcomes:  make(chan struct{}, 1),
		jobs:      make(chan *flight, d.cfg.Concurrency),
		reports:   make(chan []told, maxReports),
		health:    map[string]health{},
		hooks:     map[string]*hook{},
		limits:    map[string]int{},
		slowHooks: map[*hook]struct{}{},
		orphans:   map[string]orphan{},
	}
	e.ctx, e.stop = context.WithCancel(ctx)
	// What is under way when ctx ends goes on for a while, and keeps the values of ctx.
	e.attempts, e.cutOff = context.WithCancel(context.WithoutCancel(ctx))
	e.calls, e.cutCalls = context.WithCancel(context.WithoutCancel(ctx))
	return e
}

func (e *engine) run() error {
	defer e.stop()
	defer e.cutOff()
	defer e.cutCalls()
	claiming, cutClaims := context.WithCancel(e.calls)
	defer cutClaims()
	late := time.AfterFunc(Forever, cutClaims)
	defer late.Stop()
	defer context.AfterFunc(e.ctx, func() {
		e.ended <- time.Now()
		late.Reset(max(claimTime, e.drain()))
	})()
	e.claiming = claiming

	e.helpers.Go(e.watch)
	e.helpers.Go(e.cancelDeleted)
	e.helpers.Go(e.prune)
	e.recorder.Go(e.record)
	e.recorder.Go(e.tell)
	e.loop()
	e.shutdown()
	e.helpers.Wait()
	if e.d.own != nil {
		e.d.own.CloseIdleConnections()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failure
}

// loop is the claim loop. It returns when Run's context has ended or the store is closed.
func (e *engine) loop() {
	timer := time.NewTimer(Forever)
	defer timer.Stop()
	var trouble streak
	for e.ctx.Err() == nil {
		e.settle()
		hold := time.Until(e.holdUntil)
		e.recall(hold > 0 || e.failing.Load())
		e.begin()
		free := e.free()
		wait, found := Forever, (chan struct{})(nil)
		switch {
		case e.failing.Load():
			// (5) The completer wakes the loop when it is over.
		case hold > 0:
			wait = hold
		case free > 0:
			var n int
			var err error
			n, wait, err = e.claim(free)
			if err != nil {
				if !e.closed(err) && e.ctx.Err() == nil {
					e.holdUntil = time.Now().Add(trouble.begin(e, "claiming fails, trying again", err))
				}
				continue
			}
			trouble.end(e, "claiming works again")
			if free = e.free(); free > 0 && (wait == 0 && n > 0 || e.again) {
				continue // the call was for fewer than there are workers, or not all took one, or there are more tokens
			}
			found, wait = e.found, min(wait, e.untilToken())
		}
		// With all workers busy nothing is gained by a call for each that becomes free: wait for some, for the
		// completer, or for a request to become slow. Otherwise what the call left is not for want of workers.
		if e.full.Swap(free == 0) && free > 0 {
			signal(e.outcomes) // no more company is to be expected
		}
		if free == 0 {
			e.want(max(1, e.cfg.Concurrency/4))
			found, wait = nil, Forever
			if f := e.young.first; f != nil {
				wait = time.Until(f.start.Add(slowAfter))
			}
			if len(e.ready) > 0 {
				wait = min(wait, time.Until(e.ready[0].start.Add(aheadTime)))
			}
		}
		timer.Reset(wait)
		select {
		case <-e.ctx.Done():
		case <-e.wake:
		case <-e.d.rates.wake:
		case <-found:
		case <-timer.C:
		}
	}
}

// claim takes due deliveries for so many free workers, and those about to be, and sends them on their way. It returns how
// many the store handed out, and after how long another call may find more.
func (e *engine) claim(free int) (n int, wait time.Duration, err error) {
	select {
	case <-e.found: // this call sees to it
	default:
	}
	e.again = false
	e.refill()
	ctx, cancel := context.WithTimeout(e.claiming, storeTime)
	defer cancel()
	claims, wait, err := e.store.Claim(ctx, ClaimRequest{
		Max: min(free+e.coming, e.cfg.Concurrency, maxClaims), Lease: e.lease, MaxInFlight: e.cfg.MaxInFlight, Limits: e.limits, Each: 1,
	})
	if err != nil {
		return 0, 0, err
	}
	e.dispatch(claims)
	e.expect(free) // after it: a flight knows the failures that the call may have seen
	e.begin()
	if len(claims) == 0 {
		wait = max(wait, time.Millisecond) // 0 would be a fault of the store: do not spin on it
	}
	return len(claims), wait, nil
}

// dispatch sends claims on their way: to those that are ready, back if Run is to end, or to the outcome that is there already.
func (e *engine) dispatch(claims []Claim) {
	if e.ctx.Err() != nil {
		for i := range claims {
			e.enqueue(Outcome{DeliveryID: claims[i].Delivery.ID, Token: claims[i].Token}, nil)
		}
		return
	}
	claims = e.adopt(claims)
	now := time.Now()
	for i := range claims {
		f := e.newFlight()
		f.claim, f.start = claims[i], now // a copy, so that one slow flight does not keep the payloads of all
		f.hook = e.hookOf(&f.claim.Webhook)
		f.prepared, f.failures = f.hook.prepared, f.hook.failures
		f.hook.flights++
		if f.metered = e.meter(f.hook, f.claim.Webhook.RateLimit, now); !f.metered {
			e.limit(f.hook)
		}
		e.ready = append(e.ready, f)
	}
	e.remeter()
}

// want has the loop woken when n flights have landed that are not settled.
func (e *engine) want(n int) {
	e.mu.Lock()
	e.wanted = n
	enough := len(e.landed) >= n
	e.mu.Unlock()
	if enough {
		signal(e.wake)
	}
}

// free returns how many requests may be begun.
func (e *engine) free() int {
	e.mu.Lock()
	unrecorded := len(e.queue.outcomes) + e.taken
	e.mu.Unlock()
	return max(0, min(e.cfg.Concurrency-e.young.n-max(0, e.slow.n-e.cfg.MaxSlow), maxUnrecorded-unrecorded))
}

// settle takes stock: of what has landed, and of what has become slow.
func (e *engine) settle() {
	e.mu.Lock()
	landed, settled := e.landed, e.settled
	e.landed, e.settled, e.wanted = nil, nil, 0
	e.mu.Unlock()
	local := false
	for _, f := range landed {
		h := f.hook
		h.flights--
		if f.slow {
			e.slow.remove(f)
			if h.slow--; h.slow == 0 {
				delete(e.slowHooks, h)
			}
		} else {
			e.young.remove(f)
		}
		if f.bears {
			h.failures++
			h.unrecorded++
		}
		switch f.result {
		case resultOK, resultFailed:
			h.healthy = f.result == resultOK
			h.sluggish = f.took >= slowAfter
			e.pause = 0
		case resultLocal:
			local = true
		}
		e.limit(h)
		e.reuse(f)
	}
	for _, h := range settled {
		h.unrecorded--
		e.limit(h)
	}
	now := time.Now()
	for f := e.young.first; f != nil && now.Sub(f.start) >= slowAfter; f = e.young.first {
		e.young.remove(f)
		e.slowDown(f)
		e.limit(f.hook)
	}
	if local && !now.Before(e.holdUntil) {
		e.pause = min(max(firstPause, 2*e.pause), lastPause)
		e.holdUntil = now.Add(e.pause)
	}
	if crowded := e.slow.n >= e.cfg.MaxSlow; crowded != e.crowded {
		e.crowded = crowded
		for h := range e.slowHooks {
			e.limit(h)
		}
	}
}
