package postrider

import (
	"context"
	"time"
)

// Waits after errors of the store: the first one, doubled to the last.
const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = time.Second
)

// watch turns Wait into wakes of the loop. Wait has no time limit: it is there to wait.
func (e *engine) watch() {
	var trouble streak
	for {
		err := e.store.Wait(e.ctx)
		if e.ctx.Err() != nil || e.closed(err) {
			return
		}
		if err == nil {
			trouble.end(e, "watching the store works again")
		} else if !pauseFor(e.ctx, trouble.begin(e, "watching the store fails, trying again", err)) {
			return
		}
		// After an error too: something may have been missed. It blocks until the loop can make use of it, so that a
		// store whose Wait returns until the next Claim does no harm.
		select {
		case e.found <- struct{}{}:
		case <-e.ctx.Done():
			return
		}
	}
}

// Retention is kept in steps: every pruneEvery at most, in batches that leave others room between them.
const (
	pruneEvery = time.Hour
	pruneBatch = 1000
	prunePause = 5 * time.Millisecond
)

// prune deletes what Retention is over for, at the start of Run and from then on.
func (e *engine) prune() {
	if e.cfg.Retention == Forever {
		return
	}
	every := max(min(pruneEvery, e.cfg.Retention/10), time.Second)
	var trouble streak
	for {
		_, err := e.d.Prune(e.ctx)
		if e.ctx.Err() != nil || e.closed(err) {
			return
		}
		wait := every
		if err != nil {
			wait = trouble.begin(e, "deleting old deliveries fails, trying again", err)
		} else {
			trouble.end(e, "deleting old deliveries works again")
		}
		if !pauseFor(e.ctx, wait) {
			return
		}
	}
}

// cancelDeleted cancels what waits for deleted webhooks, in batches.
func (e *engine) cancelDeleted() {
	var trouble streak
	for {
		ctx, cancel := context.WithTimeout(e.ctx, storeTime)
		n, more, err := e.store.Change(ctx, Change{Kind: ChangeCancel, Deleted: true, Max: 1000})
		cancel()
		if e.ctx.Err() != nil || e.closed(err) {
			return
		}
		switch {
		case err != nil:
			if !pauseFor(e.ctx, trouble.begin(e, "canceling deliveries of deleted webhooks fails, trying again", err)) {
				return
			}
			continue
		case more && n > 0:
			continue
		case more:
			if !pauseFor(e.ctx, lastBackoff) {
				return
			}
			continue
		}
		trouble.end(e, "canceling deliveries of deleted webhooks works again")
		select {
		case <-e.d.deleted:
		case <-e.ctx.Done():
			return
		}
	}
}

// streak is a row of failures of the same kind: it is logged once, and each one is followed by a longer wait.
type streak struct{ wait time.Duration }

// begin logs the first failure of a row, and returns how long to wait.
func (s *streak) begin(e *engine, message string, err error) time.Duration {
	if s.wait == 0 {
		e.log.ErrorContext(e.calls, message, "error", err)
	}
	s.wait = min(max(firstBackoff, 2*s.wait), lastBackoff)
	return s.wait
}

// end logs that a row of failures is over, if there was one.
func (s *streak) end(e *engine, message string) {
	if s.wait > 0 {
		e.log.InfoContext(e.calls, message)
		s.wait = 0
	}
}

// signal makes a level-triggered wake-up: the receiver looks again.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pauseFor waits, and returns false if ctx ends before.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
