package postrider

import "time"

// flight is a claim that is worked on.
type flight struct {
	claim      Claim
	prepared   *prepared
	hook       *hook
	start      time.Time
	slow       bool // the loop's
	prev, next *flight
	result     result        // set by land
	took       time.Duration // set by land
	done       bool          // guarded by engine.mu: it has landed
	abandoned  bool          // guarded by engine.mu: it was given up
}

// hook is what the claim loop knows of a webhook.
type hook struct {
	id       string
	prepared *prepared // for its latest Version
	flights  int
	slow     int  // of the flights
	healthy  bool // its last attempt succeeded
	sluggish bool // and was slow, or failed slowly
	limit    int  // its entry in engine.limits; noLimit: it has none
}

// noLimit leaves a webhook to ClaimRequest.Each, which is 1.
const noLimit = -1

// hookOf returns what is known of a webhook, with its latest version made ready.
func (e *engine) hookOf(w *Webhook) *hook {
	h := e.hooks[w.ID]
	if h == nil {
		e.forget()
		h = &hook{id: w.ID, limit: noLimit}
		e.hooks[w.ID] = h
	}
	if h.prepared == nil || h.prepared.webhook.Version != w.Version {
		h.prepared = &prepared{webhook: *w}
	}
	return h
}

// forget makes room when too many webhooks are known: of any that has nothing in flight it forgets that it is healthy,
// which costs the webhook one cautious request.
func (e *engine) forget() {
	most := max(maxKnown, 2*(e.cfg.Concurrency+e.cfg.MaxSlow))
	if len(e.hooks) < most {
		return
	}
	for id, h := range e.hooks {
		if h.flights == 0 {
			delete(e.hooks, id)
			delete(e.limits, id)
		}
		if len(e.hooks) <= most*3/4 {
			return
		}
	}
}

// limit brings the webhook's entry in the limits up to date.
func (e *engine) limit(h *hook) {
	limit := noLimit
	switch {
	case h.slow > 0 && e.crowded:
		limit = 0
	case h.healthy:
		limit = healthyLimit
	case h.flights > 0:
		limit = 0
	}
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
