package postrider

import (
	"context"
	"errors"
	"maps"
	"time"
)

// The teller tells the log and Config.Observe what came of recorded outcomes. It reads again each webhook that an
// outcome bore on, since only the store knows what it made of it. It works beside the completer, so that reading delays
// nobody; but whoever observes slowly is waited for in the end.
const (
	maxReports = 16 // batches that wait to be told
	warnFirst  = 50 // percent of DisableAfter
	warnLast   = 80
)

// What is told of webhooks.
const (
	messageOpened   = "webhook fails, its breaker has opened"
	messageClosed   = "webhook works again, its breaker has closed"
	messageWarning  = "webhook does nothing but fail and is going to be disabled"
	messageDisabled = "webhook is disabled"
)

// note is what the teller needs to know of an outcome beside itself.
type note struct {
	hook                        *hook  // that gets nothing until the outcome is recorded; nil: none
	before                      health // of the webhook, as it was claimed
	project, eventID, eventType string
}

// noteOf returns the note of an outcome, nil if there is nothing to tell of it.
func (e *engine) noteOf(c *Claim, h *hook, o *Outcome) *note {
	if o.Webhook == nil && (e.cfg.Observe == nil || o.Attempt == nil) {
		return nil
	}
	n := &note{before: healthOf(&c.Webhook), project: c.Event.Project, eventID: c.Event.ID, eventType: c.Event.Type}
	if o.Webhook.stops() {
		n.hook = h
	}
	return n
}

// health is what is told of a webhook when it changes.
type health struct {
	version                 int64
	state                   State
	failures, window, trips int
	since                   time.Time // FailingSince
	warned                  int       // percent, of this row of failures
}

func healthOf(w *Webhook) health {
	return health{
		version: w.Version, state: w.State, failures: w.Failures, window: w.Window, trips: w.Trips, since: w.FailingSince,
	}
}

// told is an outcome of a batch that was recorded, with something to tell of it.
type told struct {
	Outcome
	*note
	lost bool // it was not recorded itself: its claim was no longer held
}

// report hands what there is to tell of a batch to the teller. Of which outcomes it is unsure whether they were recorded
// it asks the store, at once: soon an outcome that was not may be, under another claim.
func (e *engine) report(b batch, unsure bool) {
	var list []told
	for i, n := range b.notes {
		if n != nil {
			t := told{Outcome: b.outcomes[i], note: n}
			t.lost = unsure && e.cfg.Observe != nil && !e.recorded(&t.Outcome)
			list = append(list, t)
		}
	}
	if len(list) > 0 {
		e.reports <- list
	}
}

// recorded reports whether the store has the attempt of an outcome.
func (e *engine) recorded(o *Outcome) bool {
	if o.Attempt == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(e.calls, storeTime)
	defer cancel()
	_, attempts, err := e.store.Delivery(ctx, o.DeliveryID)
	n := o.Attempt.Number
	return err == nil && n <= len(attempts) && attempts[n-1].StartedAt.Equal(o.Attempt.StartedAt)
}

// tell is the teller. It returns when the completer has, and everything is told.
func (e *engine) tell() {
	for list := range e.reports {
		if e.cfg.Observe != nil {
			for i := range list {
				e.tellOutcome(&list[i])
			}
		}
		e.tellWebhooks(list)
	}
}

// tellOutcome tells of an attempt, and that its delivery has ended.
func (e *engine) tellOutcome(t *told) {
	if t.Attempt == nil || t.lost {
		return
	}
	n := Notice{
		Kind: NoticeAttempted, Project: t.project, EventID: t.eventID, EventType: t.eventType,
		DeliveryID: t.DeliveryID, WebhookID: t.Attempt.WebhookID, Attempt: t.Attempt,
	}
	e.d.notify(n)
	n.Attempt = nil
	switch t.Status {
	case StatusDelivered:
		n.Kind = NoticeDelivered
		e.d.notify(n)
	case StatusFailed:
		// Unless it was canceled meanwhile: then that is how it has ended.
		ctx, cancel := context.WithTimeout(e.calls, storeTime)
		defer cancel()
		if v, _, err := e.store.Delivery(ctx, t.DeliveryID); err != nil || v.Status == StatusFailed {
			n.Kind = NoticeFailed
			e.d.notify(n)
		}
	}
}

// tellWebhooks tells what has become of the webhooks that the outcomes bore on.
func (e *engine) tellWebhooks(list []told) {
	type borne struct {
		before    health
		succeeded bool
	}
	var hooks map[string]borne
	for _, t := range list {
		if t.Webhook == nil {
			continue
		}
		if hooks == nil {
			hooks = map[string]borne{}
		}
		id := t.Attempt.WebhookID
		b := hooks[id]
		if t.before.version >= b.before.version {
			b.before = t.before
		}
		b.succeeded = b.succeeded || !t.Attempt.Failed
		hooks[id] = b
	}
	for id, b := range hooks {
		// What was told last, unless the webhook was changed by others since.
		if last, ok := e.health[id]; ok && last.version >= b.before.version {
			b.before = last
		} else if ok && last.since.Equal(b.before.since) {
			b.before.warned = last.warned
		}
		ctx, cancel := context.WithTimeout(e.calls, storeTime)
		w, err := e.store.Webhook(ctx, id)
		cancel()
		switch {
		case errors.Is(err, ErrNotFound):
			delete(e.health, id)
			continue
		case err != nil:
			e.health[id] = b.before // to be told the next time
			continue
		}
		e.health[id] = e.tellWebhook(&w, b.before, b.succeeded)
	}
	if len(e.health) > maxKnown {
		maps.DeleteFunc(e.health, func(_ string, h health) bool { return h.failures == 0 && h.window == 0 })
	}
}

// tellWebhook tells what has changed about a webhook, and returns how it is now.
func (e *engine) tellWebhook(w *Webhook, before health, succeeded bool) health {
	now := healthOf(w)
	if now.since.Equal(before.since) {
		now.warned = before.warned
	}
	n := Notice{Kind: NoticeWebhook, Project: w.Project, WebhookID: w.ID, Webhook: w}
	share := int(100 * e.cfg.health(w).failedFor(w, w.UpdatedAt))
	switch {
	case now.state == StateDisabled && before.state != StateDisabled:
		if share >= 100 {
			n.Share = 100
		}
		n.Message = messageDisabled
		e.log.WarnContext(e.calls, n.Message, "webhook", w.ID, "reason", w.Reason, "failures", w.Failures)
		e.d.notify(n)
		return now
	case now.trips > before.trips:
		n.Message = messageOpened
		if before.window == 0 { // afterwards it is no news
			e.log.WarnContext(e.calls, n.Message, "webhook", w.ID, "failures", w.Failures, "until", w.NotBefore)
		}
		e.d.notify(n)
	case succeeded && before.window > 0 && now.window == 0:
		n.Message = messageClosed
		e.log.InfoContext(e.calls, n.Message, "webhook", w.ID)
		e.d.notify(n)
	}
	level := 0
	switch {
	case now.state != StateEnabled:
	case share >= warnLast:
		level = warnLast
	case share >= warnFirst:
		level = warnFirst
	}
	if level > now.warned {
		now.warned, n.Share, n.Message = level, level, messageWarning
		e.log.WarnContext(e.calls, n.Message, "webhook", w.ID, "percent", level, "since", w.FailingSince, "failures", w.Failures)
		e.d.notify(n)
	}
	return now
}
