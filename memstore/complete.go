package memstore

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// Complete records what became of claims.
func (s *Store) Complete(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
	for i := range outcomes {
		if err := outcomes[i].Validate(); err != nil {
			return 0, fmt.Errorf("outcomes[%d]: %w", i, err)
		}
	}
	if err := s.lockWrite(ctx); err != nil {
		return 0, err
	}
	defer s.unlockWrite()
	now := s.micros()
	for _, c := range s.board.Expired(now) {
		s.dropLocked(c, now)
	}
	n := 0
	for i := range outcomes {
		o := &outcomes[i]
		d := s.byDelID[o.DeliveryID]
		if d == nil {
			continue
		}
		c := s.board.Find(d.ref())
		if c == nil || c.Token != o.Token {
			continue
		}
		n++
		if o.Attempt == nil {
			s.dropLocked(c, now)
		} else {
			s.recordLocked(d, c, o, now)
		}
		s.changeHookLocked(d.hook, o.Webhook, now)
	}
	if n > 0 {
		s.signal()
	}
	return n, nil
}

func (s *Store) recordLocked(d *delivery, c *queue.Claim, o *postrider.Outcome, now int64) {
	a := *o.Attempt
	a.Body = append([]byte(nil), a.Body...)
	a.WebhookID = d.WebhookID
	a.StartedAt, a.FinishedAt, a.NextAt = micro(a.StartedAt), micro(a.FinishedAt), micro(a.NextAt)
	d.attempts = append(d.attempts, a)
	d.Attempts++
	d.LastTook = a.FinishedAt.Sub(a.StartedAt)
	if a.Code != 0 {
		d.LastCode = a.Code
	}
	if a.Failed {
		d.LastClass, d.LastError = a.Class, a.Error
	}
	if a.Failed {
		d.hook.stats.AttemptsFailed++
	} else {
		d.hook.stats.AttemptsOK++
	}
	d.hook.tally.attempt(a.Failed, now)
	status := o.Status
	if (c.Canceled || d.hook.deleted) && status != postrider.StatusDelivered {
		status = postrider.StatusCanceled
	}
	s.board.Drop(c, false, now)
	if status.Final() {
		s.endLocked(d, status, now)
		return
	}
	s.moveLocked(d, status)
	d.due = now + o.RetryIn.Microseconds()
	d.hook.tally.retry(d.due, 1)
	s.waitLocked(d, now)
}

// micro cuts a time to what the codec keeps.
func micro(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return instant(t.UnixMicro())
}

func (s *Store) changeHookLocked(h *hook, c *postrider.WebhookChange, now int64) {
	if c == nil || h.deleted {
		return
	}
	c.Apply(&h.Webhook, instant(now))
	s.placeLocked(h, now)
}

// placeLocked tells the board what has changed about a webhook.
func (s *Store) placeLocked(h *hook, now int64) {
	h.place.Open = h.State == postrider.StateEnabled && !h.deleted
	h.place.NotBefore = math.MinInt64
	if !h.NotBefore.IsZero() {
		h.place.NotBefore = h.NotBefore.UnixMicro()
	}
	h.place.MaxInFlight, h.place.Window = h.MaxInFlight, h.Window
	s.board.Touch(&h.place, now)
	s.signal()
}
