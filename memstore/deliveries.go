package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/cursor"
)

// Event returns an event.
func (s *Store) Event(ctx context.Context, project, id string) (postrider.Event, error) {
	if err := s.lock(ctx); err != nil {
		return postrider.Event{}, err
	}
	defer s.mu.Unlock()
	ev := s.events[key(project, id)]
	if ev == nil {
		return postrider.Event{}, fmt.Errorf("event %q: %w", id, postrider.ErrNotFound)
	}
	return ev.Event, nil
}

// Delivery returns a delivery and its attempts.
func (s *Store) Delivery(ctx context.Context, id string) (postrider.Delivery, []postrider.Attempt, error) {
	if err := s.lock(ctx); err != nil {
		return postrider.Delivery{}, nil, err
	}
	defer s.mu.Unlock()
	d := s.byDelID[id]
	if d == nil {
		return postrider.Delivery{}, nil, fmt.Errorf("delivery %q: %w", id, postrider.ErrNotFound)
	}
	return s.viewLocked(d), slices.Clone(d.attempts), nil
}

// walkLocked visits deliveries that the query may select, beginning behind the cursor, until f returns false.
func (s *Store) walkLocked(q *postrider.DeliveryQuery, after uint64, set bool, f func(*delivery) bool) {
	log, ascending := s.log, q.Ascending
	switch h := s.byID[q.WebhookID]; {
	case q.EventID != "":
		log = s.byEvent[q.EventID]
	case h != nil:
		log = h.log
	case q.WebhookID != "":
		return
	}
	// Seq ascends along a log, so that a position is found by halving.
	if ascending {
		i := sort.Search(len(log), func(i int) bool { return log[i].seq > after })
		for ; i < len(log); i++ {
			if !log[i].pruned && !f(log[i]) {
				return
			}
		}
		return
	}
	i := len(log)
	if set {
		i = sort.Search(len(log), func(i int) bool { return log[i].seq >= after })
	}
	for i--; i >= 0; i-- {
		if !log[i].pruned && !f(log[i]) {
			return
		}
	}
}

// Deliveries returns a page of deliveries.
func (s *Store) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (page postrider.Page[postrider.Delivery], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	var after uint64
	set, err := cursor.Decode(q.Cursor, cursor.Deliveries(q), &after)
	if err != nil {
		return page, err
	}
	if err := s.lock(ctx); err != nil {
		return page, err
	}
	defer s.mu.Unlock()
	limit, skip := cmp.Or(q.Limit, postrider.DefaultLimit), q.Offset
	s.walkLocked(&q, after, set, func(d *delivery) bool {
		v := s.viewLocked(d)
		if !q.Matches(&v) {
			return true
		}
		if skip > 0 {
			skip--
			return true
		}
		if len(page.Items) == limit {
			page.Next = cursor.Encode(cursor.Deliveries(q), after)
			return false
		}
		page.Items = append(page.Items, v)
		after = d.seq
		return true
	})
	return page, nil
}

// Attempts returns a page of attempts.
func (s *Store) Attempts(ctx context.Context, q postrider.AttemptQuery) (page postrider.Page[postrider.Attempt], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	// The position is the last attempt returned: of its delivery, those with a lower number are still to come.
	var at, number uint64
	set, err := cursor.Decode(q.Cursor, cursor.Attempts(q), &at, &number)
	if err != nil {
		return page, err
	}
	if err := s.lock(ctx); err != nil {
		return page, err
	}
	defer s.mu.Unlock()
	limit := cmp.Or(q.Limit, postrider.DefaultLimit)
	of := q.Deliveries()
	s.walkLocked(&of, at+1, set, func(d *delivery) bool {
		if v := s.viewLocked(d); !of.Matches(&v) {
			return true
		}
		for _, a := range slices.Backward(d.attempts) {
			if set && d.seq == at && uint64(a.Number) >= number || !q.Matches(&a) {
				continue
			}
			if len(page.Items) == limit {
				page.Next = cursor.Encode(cursor.Attempts(q), at, number)
				return false
			}
			page.Items = append(page.Items, a)
			set, at, number = true, d.seq, uint64(a.Number)
		}
		return true
	})
	return page, nil
}

// Change makes open deliveries due now, or cancels them.
func (s *Store) Change(ctx context.Context, c postrider.Change) (n int, more bool, err error) {
	if err := c.Validate(); err != nil {
		return 0, false, err
	}
	if err := s.lockWrite(ctx); err != nil {
		return 0, false, err
	}
	defer s.unlockWrite()
	now := s.micros()
	// Compare as times: now less a long age does not fit what a Duration can hold.
	youngest := s.now().Add(-c.Age)
	for _, d := range s.selectLocked(c) {
		if c.Age > 0 && d.CreatedAt.After(youngest) {
			break // the others were created later
		}
		if n == c.Max {
			return n, true, nil
		}
		if s.changeLocked(c.Kind, d, now) {
			n++
		}
	}
	return n, false, nil
}

// selectLocked returns the open deliveries that a change is for, in the order of commits.
func (s *Store) selectLocked(c postrider.Change) (list []*delivery) {
	hooks := s.hooks
	switch {
	case c.Deleted:
	case c.Query.ID != "":
		if d := s.byDelID[c.Query.ID]; d != nil && !d.Status.Final() && c.Query.Matches(&d.Delivery) {
			list = append(list, d)
		}
		return list
	case c.Query.WebhookID != "":
		hooks = nil
		if h := s.byID[c.Query.WebhookID]; h != nil {
			hooks = []*hook{h}
		}
	}
	for _, h := range hooks {
		for _, d := range h.open {
			if c.Deleted && h.deleted || !c.Deleted && c.Query.Matches(&d.Delivery) {
				list = append(list, d)
			}
		}
	}
	slices.SortFunc(list, func(a, b *delivery) int { return int(int64(a.seq) - int64(b.seq)) })
	return list
}

func (s *Store) changeLocked(kind postrider.ChangeKind, d *delivery, now int64) bool {
	held := s.board.Find(d.ref())
	switch {
	case kind == postrider.ChangeCancel && held != nil:
		if held.Canceled || d.hook.deleted {
			return false
		}
		held.Canceled = true
	case kind == postrider.ChangeCancel:
		s.endLocked(d, postrider.StatusCanceled, now)
		s.board.Touch(&d.hook.place, now)
	case held != nil || d.parked || d.due <= now:
		return false
	default:
		if d.Status == postrider.StatusInProcess {
			d.hook.tally.retry(d.due, -1)
			d.hook.tally.retry(now, 1)
		}
		d.due = now
		s.waitLocked(d, now)
		s.signal()
	}
	return true
}

// Prune deletes deliveries that ended at least age ago.
func (s *Store) Prune(ctx context.Context, age time.Duration, max int) (n int, more bool, err error) {
	if err := s.lockWrite(ctx); err != nil {
		return 0, false, err
	}
	defer s.unlockWrite()
	// Compare as times: now less a long age does not fit what a Duration can hold.
	limit := s.now().Add(-age)
	for len(s.ended) > 0 && !s.ended[0].FinishedAt.After(limit) {
		if n == max {
			return n, true, nil
		}
		s.pruneLocked(s.ended[0])
		s.ended[0] = nil
		s.ended = s.ended[1:]
		n++
	}
	if n > 0 {
		gone := func(d *delivery) bool { return d.pruned }
		s.log = slices.DeleteFunc(s.log, gone)
		for _, h := range s.hooks {
			h.log = slices.DeleteFunc(h.log, gone)
		}
	}
	return n, false, nil
}

func (s *Store) pruneLocked(d *delivery) {
	d.pruned = true
	delete(s.byDelID, d.ID)
	*d.hook.stats.Count(d.Status)--
	d.hook.stats.Pruned++
	if list := slices.DeleteFunc(s.byEvent[d.EventID], func(other *delivery) bool { return other == d }); len(list) > 0 {
		s.byEvent[d.EventID] = list
	} else {
		delete(s.byEvent, d.EventID)
	}
	if d.event.deliveries--; d.event.deliveries == 0 {
		delete(s.events, d.event.key())
	}
}
