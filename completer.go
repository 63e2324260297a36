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
const (
	maxBatch   = 1 << 10
	lingerTime = time.Millisecond
	lingerAt   = 16 // requests that hold a worker and may soon bring company
)

// orphan is an outcome that the store did not take, because its claim was no longer held.
type orphan struct {
	outcome Outcome
	until   time.Time // then it is no longer expected to be claimed again
}

// enqueue hands an outcome to the completer.
func (e *engine) enqueue(o Outcome) {
	e.mu.Lock()
	tell := e.appendLocked(o)
	e.mu.Unlock()
	if tell {
		signal(e.outcomes)
	}
}

// appendLocked adds an outcome to the queue and reports whether the completer is to be told.
func (e *engine) appendLocked(o Outcome) bool {
	e.queue = append(e.queue, o)
	if e.target == 0 || len(e.queue) < e.target {
		return false
	}
	e.target = 0
	return true
}

// record is the completer. It returns when it is closing and the queue is empty, or its calls are cut.
func (e *engine) record() {
	var spare []Outcome
	for {
		batch := e.gather(spare)
		if len(batch) == 0 {
			return
		}
		done, clean := e.complete(batch)
		if !done {
			return
		}
		e.mu.Lock()
		e.taken = 0
		e.mu.Unlock()
		signal(e.wake)
		spare = nil
		if clean { // else a store that gave up on the call may still read it
			clear(batch)
			spare = batch[:0]
		}
	}
}

// gather returns the outcomes there are, once there are any; none if there will be no more.
func (e *engine) gather(spare []Outcome) []Outcome {
	lingered := false
	for {
		e.mu.Lock()
		n := len(e.queue)
		if n == 0 && e.closing {
			e.mu.Unlock()
			return nil
		}
		if n == 0 {
			e.target = 1
			e.mu.Unlock()
			e.recovered()
			<-e.outcomes // shutdown comes this way too
			continue
		}
		// Few outcomes of many requests: more are about to come, and a commit costs the same for all.
		if soon := int(e.busy.Load()) - n; !lingered && !e.closing && soon >= lingerAt && n < soon/2 {
			e.target = soon / 2
			e.mu.Unlock()
			e.linger()
			lingered = true
			continue
		}
		batch := e.queue
		e.queue = spare
		if n > maxBatch {
			e.queue = append(e.queue, batch[maxBatch:]...)
			clear(batch[maxBatch:])
			batch = batch[:maxBatch]
		}
		e.taken, e.target = len(batch), 0
		e.mu.Unlock()
		return batch
	}
}

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
	if e.failing.CompareAndSwap(true, false) {
		if e.proved {
			e.trouble.end(e, "outcomes are recorded again")
		}
		signal(e.wake)
	}
}

// complete records a batch, and tries until it is done, at once if clean. It is not done if the calls are cut.
func (e *engine) complete(batch []Outcome) (done, clean bool) {
	for clean := true; ; clean = false {
		ctx, cancel := context.WithTimeout(e.calls, storeTime)
		n, err := e.store.Complete(ctx, batch)
		cancel()
		switch {
		case err == nil:
			if n < len(batch) {
				e.disown(batch)
			}
			e.proved = e.proved || n > 0
			return true, clean
		case e.closed(err):
			return false, false
		case errors.Is(err, ErrInvalid) && len(batch) == 1:
			e.log.ErrorContext(e.calls, "outcome is invalid and dropped; its delivery is sent again",
				"delivery", batch[0].DeliveryID, "error", err)
			return true, false
		case errors.Is(err, ErrInvalid):
			// One bad outcome must not hold up its neighbours.
			half := len(batch) / 2
			first, _ := e.complete(batch[:half])
			second, _ := e.complete(batch[half:])
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
func (e *engine) disown(batch []Outcome) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, o := range e.orphans {
		if now.After(o.until) {
			delete(e.orphans, id)
		}
	}
	for _, o := range batch {
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
		o.outcome.Token = c.Token
		if o.outcome.RetryIn > 0 {
			o.outcome.RetryIn = max(0, time.Until(o.outcome.Attempt.NextAt))
		}
		e.enqueue(o.outcome)
	}
	return rest
}
