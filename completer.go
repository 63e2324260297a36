package postrider

import (
	"context"
	"errors"
	"time"
)

// The completer records outcomes, all that have come together at once: while one batch is on its way to the disk, the
// next one gathers. Nobody waits for it but the bound on what is unrecorded.
//
// An outcome whose lease ran out before it could be recorded is not given up: the delivery is due again, and its
// outcome is an orphan until the next claim of the delivery adopts it, so that nothing is sent twice (see adopt).
// What a recorded batch is told of is the teller's: see health.go.
const (
	maxBatch   = 1 << 10
	lingerTime = 2 * time.Millisecond
	enough     = 256 // outcomes, for a commit to be worth its while
)

// orphan is an outcome that the store did not take, because its claim was no longer held.
type orphan struct {
	outcome Outcome
	until   time.Time // then it is no longer expected to be claimed again
}

// batch is outcomes and the note of each.
type batch struct {
	outcomes []Outcome
	notes    []*note
}

// enqueue hands an outcome to the completer.
func (e *engine) enqueue(o Outcome, n *note) {
	e.mu.Lock()
	tell := e.appendLocked(o, n)
	e.mu.Unlock()
	if tell {
		signal(e.outcomes)
	}
}

// appendLocked adds an outcome to the queue and reports whether the completer is to be told.
func (e *engine) appendLocked(o Outcome, n *note) bool {
	e.queue.outcomes = append(e.queue.outcomes, o)
	e.queue.notes = append(e.queue.notes, n)
	if e.target == 0 || len(e.queue.outcomes) < e.target {
		return false
	}
	e.target = 0
	return true
}

// record is the completer. It returns when it is closing and the queue is empty, or its calls are cut.
func (e *engine) record() {
	defer close(e.reports)
	var spare batch
	for {
		b := e.gather(spare)
		if len(b.outcomes) == 0 {
			return
		}
		done, clean := e.complete(b)
		if !done {
			return
		}
		e.mu.Lock()
		e.taken = 0
		for _, n := range b.notes {
			if n != nil && n.hook != nil {
				e.settled = append(e.settled, n.hook)
			}
		}
		e.mu.Unlock()
		signal(e.wake)
		spare = batch{}
		if clean { // else a store that gave up on the call may still read it
			clear(b.outcomes)
			clear(b.notes)
			spare = batch{b.outcomes[:0], b.notes[:0]}
		}
	}
}

// gather returns the outcomes there are, once there are any; none if there will be no more.
func (e *engine) gather(spare batch) batch {
	lingered := false
	for {
		e.mu.Lock()
		n := len(e.queue.outcomes)
		if n == 0 && e.closing {
			e.mu.Unlock()
			return batch{}
		}
		if n == 0 {
			e.target = 1
			e.mu.Unlock()
			e.recovered()
			<-e.outcomes // shutdown comes this way too
			continue
		}
		// With every worker busy more are about to come, and a commit costs the same for all. With one that is free a
		// webhook may be at its MaxInFlight, and wait for these to be recorded.
		if !lingered && !e.closing && e.full.Load() && n < enough {
			e.target = enough
			e.mu.Unlock()
			e.linger()
			lingered = true
			continue
		}
		b := e.queue
		e.queue = spare
		if n > maxBatch {
			e.queue.outcomes = append(e.queue.outcomes, b.outcomes[maxBatch:]...)
			e.queue.notes = append(e.queue.notes, b.notes[maxBatch:]...)
			clear(b.outcomes[maxBatch:])
			clear(b.notes[maxBatch:])
			b = b.part(0, maxBatch)
		}
		e.taken, e.target = len(b.outcomes), 0
		e.mu.Unlock()
		return b
	}
}

func (b batch) part(from, to int) batch { return batch{b.outcomes[from:to], b.notes[from:to]} }

func (e *engine) linger() {
	timer := time.NewTimer(lingerTime)
	defer timer.Stop()
	select {
	case <-e.outcomes:
	case <-timer.C:
	}
}

// recovered lets the loop claim again: what could not be recorded is recorded, or an orphan. That all leases are over,
// so that there is nothing to record, is no sign that the store can write again: then the log says nothing.
func (e *engine) recovered() {
	if e.proved {
		e.trouble.end(e, "outcomes are recorded again")
	}
	if e.failing.CompareAndSwap(true, false) {
		signal(e.wake)
	}
}

// complete records a batch, and tries until it is done, at once if clean. It is not done if the calls are cut.
func (e *engine) complete(b batch) (done, clean bool) {
	for clean := true; ; clean = false {
		ctx, cancel := context.WithTimeout(e.calls, storeTime)
		n, err := e.store.Complete(ctx, b.outcomes)
		cancel()
		switch {
		case err == nil:
			if n < len(b.outcomes) {
				e.disown(b.outcomes)
			}
			e.proved = e.proved || n > 0
			for i := range b.outcomes {
				if o := &b.outcomes[i]; o.Attempt != nil && o.Status.Final() {
					e.d.ended(o.DeliveryID)
				}
			}
			e.report(b, n < len(b.outcomes))
			return true, clean
		case e.closed(err):
			return false, false
		case errors.Is(err, ErrInvalid) && len(b.outcomes) == 1:
			e.log.ErrorContext(e.calls, "outcome is invalid and dropped; its delivery is sent again",
				"delivery", b.outcomes[0].DeliveryID, "error", err)
			return true, false
		case errors.Is(err, ErrInvalid):
			// One bad outcome must not hold up its neighbours.
			half := len(b.outcomes) / 2
			first, _ := e.complete(b.part(0, half))
			second, _ := e.complete(b.part(half, len(b.outcomes)))
			return first && second, false
		}
		e.failing.Store(true)
		e.proved = false
		if !pauseFor(e.calls, e.trouble.begin(e, "outcomes cannot be recorded, nothing is sent meanwhile", err)) {
			return false, false
		}
	}
}

// disown makes orphans of a batch of which the store did not take every outcome. It does not say which; those that it
// took are told from the others when their delivery is claimed again, or never are.
func (e *engine) disown(outcomes []Outcome) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, o := range e.orphans {
		if now.After(o.until) {
			delete(e.orphans, id)
		}
	}
	for _, o := range outcomes {
		if o.Attempt != nil && len(e.orphans) < maxUnrecorded {
			e.orphans[o.DeliveryID] = orphan{o, now.Add(2 * e.lease)}
		}
	}
}

// adopt gives each claim of a delivery that has been tried already, without that being recorded, to the outcome of
// that attempt. It returns the other claims.
func (e *engine) adopt(claims []Claim) []Claim {
	e.mu.Lock()
	none := len(e.orphans) == 0
	e.mu.Unlock()
	if none {
		return claims
	}
	var rest []Claim
	for _, c := range claims {
		e.mu.Lock()
		o, ok := e.orphans[c.Delivery.ID]
		delete(e.orphans, c.Delivery.ID)
		e.mu.Unlock()
		if !ok || o.outcome.Attempt.Number != c.Delivery.Attempts+1 {
			rest = append(rest, c)
			continue
		}
		e.enqueue(e.readopt(o.outcome, &c))
	}
	return rest
}

// readopt returns the outcome of an earlier claim for the present one. What it said of times was said then.
func (e *engine) readopt(o Outcome, c *Claim) (Outcome, *note) {
	o.Token = c.Token
	if o.RetryIn > 0 {
		o.RetryIn = max(0, time.Until(o.Attempt.NextAt))
	}
	if o.Webhook != nil && o.Webhook.Hold > 0 {
		change := *o.Webhook
		change.Hold = max(0, time.Until(o.Attempt.FinishedAt.Add(change.Hold)))
		o.Webhook = &change
	}
	h := e.hookOf(&c.Webhook)
	n := e.noteOf(c, h, &o)
	if n != nil && n.hook != nil {
		h.unrecorded++
		e.limit(h)
	}
	return o, n
}
