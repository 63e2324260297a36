package postrider

import "time"

// flight is a claim that is worked on.
type flight struct {
	claim      Claim
	prepared   *prepared
	hook       *hook
	failures   int // of the hook when it was claimed
	start      time.Time
	slow       bool // the loop's
	metered    bool // it has a token
	prev, next *flight
	result     result        // set by land
	took       time.Duration // set by land
	bears      bool          // set by land: its outcome may stop its webhook
	done       bool          // guarded by engine.mu: it has landed
	abandoned  bool          // guarded by engine.mu: it was given up
}

// hook is what the claim loop knows of a webhook.
type hook struct {
	id       string
	prepared *prepared // for version
	version  int64
	flights  int
	slow     int  // of the flights
	healthy  bool // its last attempt succeeded
	sluggish bool // and was slow, or failed slowly
	limit    int  // its entry in engine.limits; noLimit: it has none

	failures   int // of its attempts, as far as they are settled
	failed     int // likewise as they land; guarded by engine.mu
	unrecorded int // outcomes that may stop it and are not recorded yet

	bucket    bucket
	allowed   int       // what is left of limit in this call of Claim; only with a RateLimit
	nextToken time.Time // if it is among engine.throttled
	index     int       // there; -1: it is not
}

// noLimit leaves a webhook to ClaimRequest.Each, which is 1.
const noLimit = -1

// hookOf returns what is known of a webhook, with its latest version made ready.
func (e *engine) hookOf(w *Webhook) *hook {
	h := e.hooks[w.ID]
	if h == nil {
		e.forget()
		h = &hook{id: w.ID, limit: noLimit, index: -1}
		e.hooks[w.ID] = h
	}
	stale := h.prepared == nil || h.prepared.stale.Load()
	if h.version == w.Version && !stale {
		return h
	}
	h.version = w.Version
	if stale || !h.prepared.serves(w) {
		h.prepared = &prepared{webhook: *w}
	}
	return h
}

// forget makes room when too many webhooks are known. Of any about which nothing is under way it forgets that it is
// healthy, which costs the webhook one cautious request. What a webhook has used of its RateLimit is not forgotten: it
// stays until its tokens are back.
func (e *engine) forget() {
	if len(e.hooks) < e.mostHooks {
		return
	}
	most := max(maxKnown, 2*(e.cfg.Concurrency+e.cfg.MaxSlow))
	now := time.Now()
	for id, h := range e.hooks {
		if h.flights == 0 && h.unrecorded == 0 && h.index < 0 && h.bucket.full(now) {
			delete(e.hooks, id)
			delete(e.limits, id)
		}
		if len(e.hooks) <= most*3/4 {
			break
		}
	}
	e.mostHooks = max(most, len(e.hooks)*4/3) // not again for every next one if few could go
}

// barred reports whether no request to the webhook may begin beside so many.
func (e *engine) barred(h *hook, flights int) bool {
	return h.slow > 0 && e.crowded || h.unrecorded > 0 || !h.healthy && flights > 0
}

// limit brings the webhook's entry in the limits up to date.
func (e *engine) limit(h *hook) {
	limit := noLimit
	switch {
	case e.barred(h, h.flights):
		limit = 0
	case h.healthy:
		limit = healthyLimit
	}
	limit = e.throttle(h, limit)
	if limit == h.limit {
		return
	}
	h.limit = limit
	if limit == noLimit {
		delete(e.limits, h.id)
	} else {
		e.limits[h.id] = limit
	}
}

// work makes requests until there are no more jobs.
func (e *engine) work() {
	var limit *timeLimit
	if e.d.own != nil {
		limit = &timeLimit{}
		defer limit.close()
	}
	for f := range e.jobs {
		out, result := caller{&e.cfg, e.log, e.d.guard, limit}.attempt(e.attempts, &f.claim, f.prepared)
		if !e.land(f, out, result) {
			return // given up at shutdown, which has counted this worker out
		}
	}
	e.workers.Done()
}

// land hands a flight that has ended back to the loop, and its outcome to the completer. After it the flight is the
// loop's. It returns false if the flight was given up.
func (e *engine) land(f *flight, out Outcome, r result) bool {
	f.result, f.took, f.bears = r, time.Since(f.start), out.Webhook.stops()
	e.mu.Lock()
	if f.abandoned {
		e.mu.Unlock()
		return false
	}
	f.done = true
	switch {
	case f.bears:
		f.hook.failed++
	case r == resultOK && out.Webhook == nil && f.hook.failed > f.failures:
		out.Webhook = e.cfg.relief(&f.claim)
	}
	e.landed = append(e.landed, f)
	wake := e.wanted > 0 && len(e.landed) >= e.wanted
	if wake {
		e.wanted = 0
	}
	tell := e.appendLocked(out, e.noteOf(&f.claim, f.hook, &out))
	e.mu.Unlock()
	if wake {
		signal(e.wake)
	}
	if tell {
		signal(e.outcomes)
	}
	return true
}

// slowDown counts a flight among the slow ones.
func (e *engine) slowDown(f *flight) {
	f.slow = true
	e.slow.push(f)
	f.hook.slow++
	e.slowHooks[f.hook] = struct{}{}
}

func (e *engine) newFlight() *flight {
	n := len(e.spare)
	if n == 0 {
		return &flight{}
	}
	f := e.spare[n-1]
	e.spare = e.spare[:n-1]
	return f
}

// reuse keeps the flight for newFlight, and nothing that it refers to.
func (e *engine) reuse(f *flight) {
	*f = flight{}
	if len(e.spare) < e.cfg.Concurrency {
		e.spare = append(e.spare, f)
	}
}

// flightList is a list of flights in the order in which they were pushed.
type flightList struct {
	first, last *flight
	n           int
}

func (l *flightList) push(f *flight) {
	f.prev, f.next = l.last, nil
	if l.last == nil {
		l.first = f
	} else {
		l.last.next = f
	}
	l.last = f
	l.n++
}

func (l *flightList) remove(f *flight) {
	if f.prev == nil {
		l.first = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		l.last = f.prev
	} else {
		f.next.prev = f.prev
	}
	f.prev, f.next = nil, nil
	l.n--
}
