package bolt

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/cursor"
	"github.com/postrider/postrider/internal/queue"
)

// Event returns an event.
func (s *Store) Event(ctx context.Context, project, id string) (e postrider.Event, err error) {
	if err := s.enter(ctx); err != nil {
		return e, err
	}
	defer s.life.RUnlock()
	err = s.view(func(file *reader) error {
		seq := file.get(bKey, eventKey(project, id))
		if seq == nil {
			return fmt.Errorf("event %q: %w", id, postrider.ErrNotFound)
		}
		r, err := decodeRecord(file.get(bLog, seq))
		if err != nil {
			return err
		}
		return e.UnmarshalBinary(r.event)
	})
	return e, err
}

// find returns a delivery, nil if there is none with this ID.
func (s *Store) find(id string) (x *row, err error) {
	ms, seq, no, ok := s.mask.split(id)
	if !ok {
		return nil, nil
	}
	s.mu.Lock()
	if no == 0 || int(no) > len(s.hooks) {
		s.mu.Unlock()
		return nil, nil
	}
	r := row{seq: seq, hook: no, webhook: s.hooks[no-1].webhook, brief: true}
	s.mu.Unlock()
	err = s.view(func(file *reader) error {
		ok, err := r.read(file, true, true)
		if err != nil || !ok || r.created/1000 != ms {
			return err
		}
		if r.ended == nil && !s.lives(file, seq, no) {
			return nil
		}
		if r.ended != nil {
			r.ended.raw = slices.Clone(r.ended.raw)
		}
		r.parked = file.parked(no, r.lane, seq)
		x = &r
		return nil
	})
	return x, err
}

// Delivery returns a delivery and its attempts.
func (s *Store) Delivery(ctx context.Context, id string) (d postrider.Delivery, attempts []postrider.Attempt, err error) {
	if err := s.enter(ctx); err != nil {
		return d, nil, err
	}
	defer s.life.RUnlock()
	r, err := s.find(id)
	if err == nil && r == nil {
		err = fmt.Errorf("delivery %q: %w", id, postrider.ErrNotFound)
	}
	if err != nil {
		return d, nil, err
	}
	if d, attempts, err = r.delivery(s.mask); err != nil {
		return d, nil, err
	}
	d.InFlight = s.inFlight(r.seq, r.hook)
	return d, attempts, nil
}

func (s *Store) inFlight(seq uint64, hook uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.board.Find(queue.Ref{Seq: seq, Hook: hook}) != nil
}

// Deliveries returns a page of deliveries.
func (s *Store) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (page postrider.Page[postrider.Delivery], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	key := cursor.Deliveries(q)
	var seq, hook, skip uint64
	set, err := cursor.Decode(q.Cursor, key, &seq, &hook, &skip)
	if err != nil {
		return page, err
	}
	if !set {
		skip = uint64(q.Offset)
	}
	if err := s.enter(ctx); err != nil {
		return page, err
	}
	defer s.life.RUnlock()
	limit := cmp.Or(q.Limit, postrider.DefaultLimit)
	w, err := s.newWalk(plan{DeliveryQuery: q}, limit, position{seq, uint32(hook)}, set)
	if err != nil || w == nil {
		return page, err
	}
	var places []position
	more, err := w.run(func(p position) (bool, error) {
		if len(page.Items) == limit {
			return false, nil
		}
		d, _, err := w.delivery(p)
		switch {
		case err != nil || d == nil:
			return err == nil, err
		case skip > 0:
			skip--
		default:
			page.Items, places = append(page.Items, *d), append(places, p)
		}
		return true, nil
	})
	if err != nil {
		return postrider.Page[postrider.Delivery]{}, err
	}
	if more {
		page.Next = cursor.Encode(key, w.at.seq, uint64(w.at.hook), skip)
	}
	for i, p := range places {
		page.Items[i].InFlight = s.inFlight(p.seq, p.hook)
	}
	return page, nil
}

// Attempts returns a page of attempts.
func (s *Store) Attempts(ctx context.Context, q postrider.AttemptQuery) (page postrider.Page[postrider.Attempt], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	// The position is a delivery and a number: of its attempts those below, if it is not 0, are still to come.
	key := cursor.Attempts(q)
	var seq, hook, number uint64
	set, err := cursor.Decode(q.Cursor, key, &seq, &hook, &number)
	if err != nil {
		return page, err
	}
	if err := s.enter(ctx); err != nil {
		return page, err
	}
	defer s.life.RUnlock()
	last := position{seq, uint32(hook)}
	limit := cmp.Or(q.Limit, postrider.DefaultLimit)
	w, err := s.newWalk(plan{DeliveryQuery: q.Deliveries(), unusual: needsFailure(&q), attempt: q.Matches}, limit, last, set)
	if err != nil || w == nil {
		return page, err
	}
	w.again = number > 0
	more, err := w.run(func(p position) (bool, error) {
		_, attempts, err := w.delivery(p)
		if err != nil {
			return false, err
		}
		for _, a := range slices.Backward(attempts) {
			if p == last && number > 0 && uint64(a.Number) >= number || !q.Matches(&a) {
				continue
			}
			if len(page.Items) == limit {
				return false, nil
			}
			page.Items = append(page.Items, a)
			last, number = p, uint64(a.Number)
		}
		if p != last {
			last, number = p, 0
		}
		return true, nil
	})
	if err != nil {
		return postrider.Page[postrider.Attempt]{}, err
	}
	if more {
		if w.set && (last == (position{}) || w.at.compare(last) < 0) {
			last, number = w.at, 0 // what was passed over since was not shown to f
		}
		page.Next = cursor.Encode(key, last.seq, uint64(last.hook), number)
	}
	return page, nil
}

// needsFailure reports whether what the query selects can only be among attempts that failed.
func needsFailure(q *postrider.AttemptQuery) bool {
	return q.Failed == postrider.ChoiceYes || q.Class != postrider.ClassNone || q.Code == postrider.CodeNone || q.Code != "" && q.Code[0] != '2'
}

// Stats returns counts. What depends on the time is in the file: see due, oldestDue and rates.
func (s *Store) Stats(ctx context.Context, q postrider.StatsQuery) (st postrider.Stats, err error) {
	if err := s.enter(ctx); err != nil {
		return st, err
	}
	defer s.life.RUnlock()
	if err := s.notice(); err != nil {
		return st, err
	}
	st, rated, list, err := s.count(q)
	if err != nil || len(list) == 0 && !q.Rates {
		return st, err
	}
	err = s.view(func(file *reader) (err error) {
		now := s.micros()
		if q.Rates {
			if st.Rates, err = file.rates(rated, now); err != nil {
				return err
			}
		}
		st.Due += dueRetries(file, list, everything(q), now)
		// A commit between the two readings must not show: what is due is open.
		if st.Due = min(st.Due, st.Open()); st.Due > 0 {
			st.OldestDue = oldestDue(file, list, now)
		}
		return nil
	})
	if err != nil {
		return postrider.Stats{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range list {
		p := &list[i]
		p.h.looked = max(p.h.looked, p.looked)
	}
	return st, nil
}

// count returns what memory has of the counts, the webhooks whose rates are asked for, and those with open deliveries.
func (s *Store) count(q postrider.StatsQuery) (st postrider.Stats, rated []uint32, list []pending, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.WebhookID != "" && s.byID[q.WebhookID] == nil {
		return st, nil, nil, fmt.Errorf("webhook %q: %w", q.WebhookID, postrider.ErrNotFound)
	}
	for _, h := range s.hooks {
		if (q.WebhookID == "" || q.WebhookID == h.webhook.ID) && (q.Project == "" || q.Project == h.webhook.Project) && (q.Owner == "" || q.Owner == h.webhook.Owner) {
			h.addTo(&st)
			st.InFlight += int64(h.place.Held())
			if h.unended() > 0 {
				list = append(list, h.pendingLocked())
			}
			if q.Rates && !everything(q) {
				rated = append(rated, h.no)
			}
		}
	}
	if q.Rates && everything(q) {
		rated = append(rated, s.all.no)
	}
	return st, rated, list, nil
}

// everything reports whether the query selects the whole store.
func everything(q postrider.StatsQuery) bool { return q == (postrider.StatsQuery{Rates: q.Rates}) }

// addTo adds the webhook's counts. Of what is due, retries are missing.
func (h *hook) addTo(st *postrider.Stats) {
	for status := postrider.StatusInProcess; status <= postrider.StatusFailed; status++ {
		*st.Count(status) += int64(h.stat.count[status])
	}
	st.New += int64(h.untried())
	st.Due += int64(h.untried() - h.parked())
	st.Pruned += int64(h.stat.pruned)
	st.AttemptsOK += int64(h.stat.ok)
	st.AttemptsFailed += int64(h.stat.failed)
}
