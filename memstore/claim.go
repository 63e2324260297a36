package memstore

import (
	"context"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// source makes hook a queue.Source. An entry whose delivery has ended, or is due at another time, is passed over.
type source struct {
	s *Store
	h *hook
}

func (q source) Head() (queue.Entry, queue.Answer) {
	for len(q.h.waiting) > 0 {
		e := q.h.waiting[0]
		if q.h.waits(e) {
			return e, queue.Have
		}
		q.h.waiting.Pop()
	}
	return queue.Entry{}, queue.None
}

func (q source) Pop()               { q.h.waiting.Pop() }
func (q source) Push(e queue.Entry) { q.h.waiting.Push(e) }

// Claim hands out what is due.
func (s *Store) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	if err := r.Validate(); err != nil {
		return nil, 0, err
	}
	if err := s.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer s.mu.Unlock()
	now := s.micros()
	for _, c := range s.board.Expired(now) {
		s.dropLocked(c, now)
	}
	if r.Only != "" {
		return s.claimOneLocked(r, now)
	}
	held, _, wait := s.board.Claim(queue.Request{
		Max: r.Max, MaxInFlight: r.MaxInFlight, Each: r.Each, Limits: r.Limits, Lease: r.Lease,
	}, now)
	claims := make([]postrider.Claim, len(held))
	for i, c := range held {
		claims[i] = s.claimLocked(c)
	}
	if wait < 0 {
		return claims, postrider.Forever, nil
	}
	return claims, time.Duration(wait) * time.Microsecond, nil
}

func (s *Store) claimOneLocked(r postrider.ClaimRequest, now int64) ([]postrider.Claim, time.Duration, error) {
	d := s.byDelID[r.Only]
	if d == nil || d.Status.Final() || d.hook.deleted || d.parked || s.board.Find(d.ref()) != nil {
		return nil, postrider.Forever, nil
	}
	c := s.board.Hold(&d.hook.place, queue.Entry{Seq: d.seq, Due: d.due}, r.Lease, now)
	return []postrider.Claim{s.claimLocked(c)}, 0, nil
}

func (d *delivery) ref() queue.Ref { return queue.Ref{Seq: d.seq, Hook: d.hook.place.No} }

func (s *Store) claimLocked(c *queue.Claim) postrider.Claim {
	h := s.hooks[c.Hook.No]
	d := h.open[c.Seq]
	return postrider.Claim{Delivery: s.viewLocked(d), Event: d.event.Event, Webhook: h.Webhook, Token: c.Token, Held: c.Held}
}

// viewLocked returns the delivery as callers see it.
func (s *Store) viewLocked(d *delivery) postrider.Delivery {
	v := d.Delivery
	v.WebhookName, v.Owner = d.hook.Name, d.hook.Owner
	if !v.Status.Final() {
		v.NextAt = instant(d.due)
		v.InFlight = s.board.Find(d.ref()) != nil
	}
	return v
}

// dropLocked ends a claim whose lease is over or that was released.
func (s *Store) dropLocked(c *queue.Claim, now int64) {
	d := s.hooks[c.Hook.No].open[c.Seq]
	if c.Canceled || d.hook.deleted {
		s.board.Drop(c, false, now)
		s.endLocked(d, postrider.StatusCanceled, now)
		return
	}
	s.board.Drop(c, true, now)
}

// endLocked gives a delivery its final status.
func (s *Store) endLocked(d *delivery, status postrider.Status, now int64) {
	s.moveLocked(d, status)
	d.FinishedAt = instant(now)
	delete(d.hook.open, d.seq)
	s.ended = append(s.ended, d)
	if next := d.hook.leaveLane(d); next != nil {
		s.waitLocked(next, now)
		s.signal()
	}
}

func (s *Store) moveLocked(d *delivery, status postrider.Status) {
	from := d.Status
	if from == postrider.StatusInProcess {
		d.hook.tally.retry(d.due, -1)
	}
	d.Status = status
	*d.hook.stats.Count(from)--
	*d.hook.stats.Count(status)++
}

// waitLocked lets a delivery be handed out from its due time on.
func (s *Store) waitLocked(d *delivery, now int64) {
	e := queue.Entry{Seq: d.seq, Due: d.due}
	d.hook.waiting.Push(e)
	d.hook.tally.waits(d.hook, e)
	s.board.Touch(&d.hook.place, now)
}
