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

// prune deletes what Retention is over for, at the start of Run and from then on; what waits for webhooks that are
// disabled it cancels.
func (e *engine) prune() {
	if e.cfg.Retention == Forever {
		return
	}
	every := max(min(pruneEvery, e.cfg.Retention/10), time.Second)
	var trouble streak
	for {
		_, err := e.d.Prune(e.ctx)
		if err == nil {
			err = e.cancelDisabled()
		}
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

// cancelDisabled cancels what has waited for Retention for webhooks that are disabled.
func (e *engine) cancelDisabled() error {
	if e.cfg.Retention > maxDuration {
		return nil
	}
	for page, err := range e.d.webhookPages(e.ctx, WebhookQuery{Limit: MaxLimit}) {
		if err != nil {
			return err
		}
		for i := range page {
			if page[i].State != StateDisabled {
				continue
			}
			if err := e.cancelOld(&page[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// cancelOld cancels what has waited for Retention for a webhook, in batches.
func (e *engine) cancelOld(w *Webhook) error {
	c := Change{Kind: ChangeCancel, Query: DeliveryQuery{WebhookID: w.ID}, Age: e.cfg.Retention, Max: pruneBatch}
	for more := true; more; {
		var n int
		var err error
		ctx, cancel := context.WithTimeout(e.ctx, storeTime)
		n, more, err = e.store.Change(ctx, c)
		cancel()
		e.canceled(Notice{Project: w.Project, WebhookID: w.ID, Count: n, Message: "waited for Retention for a webhook that is disabled"})
		if err != nil {
			return err
		}
		if more && !pauseFor(e.ctx, prunePause) {
			return e.ctx.Err()
		}
	}
	return nil
}

// canceled tells of deliveries that were canceled, if there are any.
func (e *engine) canceled(n Notice) {
	if n.Kind = NoticeCanceled; n.Count > 0 {
		e.d.notify(n)
	}
}

// cancelDeleted cancels what waits for deleted webhooks, in batches.
func (e *engine) cancelDeleted() {
	var trouble streak
	for {
		ctx, cancel := context.WithTimeout(e.ctx, storeTime)
		n, more, err := e.store.Change(ctx, Change{Kind: ChangeCancel, Deleted: true, Max: 1000})
		cancel()
		e.canceled(Notice{Count: n, Message: "waited for webhooks that were deleted"})
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

// streak is a row of failures of the same kind: it is told once, and each one is followed by a longer wait.
type streak struct{ wait time.Duration }

// begin tells of the first failure of a row, and returns how long to wait.
func (s *streak) begin(e *engine, message string, err error) time.Duration {
	if s.wait == 0 {
		e.log.ErrorContext(e.calls, message, "error", err)
		e.d.notify(Notice{Kind: NoticeStore, Message: message, Err: err})
	}
	s.wait = min(max(firstBackoff, 2*s.wait), lastBackoff)
	return s.wait
}

// end tells that a row of failures is over, if there was one.
func (s *streak) end(e *engine, message string) {
	if s.wait > 0 {
		e.log.InfoContext(e.calls, message)
		e.d.notify(Notice{Kind: NoticeStore, Message: message})
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
