package bolt

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"go.etcd.io/bbolt"

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
	r := row{seq: seq, hook: no, webhook: s.hooks[no-1].webhook}
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

// position is a place in the order of commits; within an event webhooks come in the order of their creation.
type position struct {
	seq  uint64
	hook uint32
}

// walk is a way through deliveries. It visits at most maxExamine.
type walk struct {
	s         *Store
	file      *reader
	ascending bool
	webhook   *hook // nil: all
	young     []queue.Entry
	hooks     []*hook // as of the start
	from      position
	set       bool // from is the last place that was visited
	flushed   map[uint32]uint64
	seen      int
}

// newWalk takes from memory what a walk needs, before its transaction starts: what is not in by as of the copy may be
// there by then, never the other way round. It returns nil if there is no such webhook.
func (s *Store) newWalk(webhookID string, ascending bool) (w *walk, err error) {
	if err := s.notice(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w = &walk{s: s, ascending: ascending, flushed: map[uint32]uint64{}}
	if webhookID != "" {
		if w.webhook = s.byID[webhookID]; w.webhook == nil {
			return nil, nil
		}
		w.young = w.webhook.young
	}
	w.hooks = s.hooks
	return w, nil
}

// run calls f for one delivery after the other until it returns false. more is true if there are others behind the
// last that f was called for.
func (w *walk) run(f func(position) (bool, error)) (more bool, err error) {
	if w.webhook != nil {
		return w.runBy(f)
	}
	return w.runLog(f)
}

// visit calls f unless the walk has gone far enough.
func (w *walk) visit(p position, f func(position) (bool, error)) (on bool, err error) {
	if w.seen == maxExamine {
		return false, nil
	}
	w.seen++
	on, err = f(p)
	if on {
		w.from, w.set = p, true
	}
	return on, err
}

// runBy walks one webhook: by and young are one list, young the newer part.
func (w *walk) runBy(f func(position) (bool, error)) (more bool, err error) {
	no := w.webhook.no
	flushed := w.flushedOf(no)
	young := w.young[index(w.young, flushed+1):]
	c := w.file.top.Bucket(nameOf[bBy]).Cursor()
	inBy := func(k []byte) bool { return k != nil && binary.BigEndian.Uint32(k) == no }
	if w.ascending {
		for k, _ := c.Seek(byKey(no, w.from.seq+1)); inBy(k); k, _ = c.Next() {
			if on, err := w.visit(position{binary.BigEndian.Uint64(k[4:]), no}, f); !on {
				return true, err
			}
		}
		for _, e := range young[index(young, w.from.seq+1):] {
			if on, err := w.visit(position{e.Seq, no}, f); !on {
				return true, err
			}
		}
		return false, nil
	}
	before := uint64(math.MaxUint64)
	if w.set {
		before = w.from.seq
	}
	for _, e := range slices.Backward(young[:index(young, before)]) {
		if on, err := w.visit(position{e.Seq, no}, f); !on {
			return true, err
		}
	}
	for k := seekBefore(c, byKey(no, before)); inBy(k); k, _ = c.Prev() {
		if on, err := w.visit(position{binary.BigEndian.Uint64(k[4:]), no}, f); !on {
			return true, err
		}
	}
	return false, nil
}

// index returns the index of the first entry at or above seq.
func index(list []queue.Entry, seq uint64) int {
	i, _ := slices.BinarySearchFunc(list, seq, func(e queue.Entry, seq uint64) int {
		if e.Seq < seq {
			return -1
		}
		return 1
	})
	return i
}

// seekBefore puts a cursor on the last key below k and returns it.
func seekBefore(c *bbolt.Cursor, k []byte) []byte {
	if at, _ := c.Seek(k); at == nil {
		last, _ := c.Last()
		return last
	}
	prev, _ := c.Prev()
	return prev
}

// runLog walks all webhooks, event by event.
func (w *walk) runLog(f func(position) (bool, error)) (more bool, err error) {
	c := w.file.top.Bucket(nameOf[bLog]).Cursor()
	var k, v []byte
	switch {
	case w.ascending:
		k, v = c.Seek(seqKey(w.from.seq))
	case !w.set:
		k, v = c.Last()
	default:
		if k, v = c.Seek(seqKey(w.from.seq)); k == nil {
			k, v = c.Last()
		} else if binary.BigEndian.Uint64(k) != w.from.seq {
			k, v = c.Prev()
		}
	}
	for ; k != nil; k, v = step(c, w.ascending) {
		seq := binary.BigEndian.Uint64(k)
		r, err := decodeRecord(v)
		if err != nil {
			return false, err
		}
		for i := range r.len() {
			if !w.ascending {
				i = r.len() - 1 - i
			}
			p := position{seq, r.hook(i)}
			if w.set && !w.after(p) || int(p.hook) > len(w.hooks) {
				continue
			}
			if on, err := w.visit(p, f); !on {
				return true, err
			}
		}
	}
	return false, nil
}

func step(c *bbolt.Cursor, ascending bool) (k, v []byte) {
	if ascending {
		return c.Next()
	}
	return c.Prev()
}

// after reports whether p comes behind from.
func (w *walk) after(p position) bool {
	less := p.seq < w.from.seq || p.seq == w.from.seq && p.hook < w.from.hook
	return p != w.from && less != w.ascending
}

func (w *walk) flushedOf(no uint32) uint64 {
	flushed, ok := w.flushed[no]
	if !ok {
		if v := w.file.get(bStat, hookKey(no)); v != nil {
			st, _ := decodeStat(v)
			flushed = st.flushed
		}
		w.flushed[no] = flushed
	}
	return flushed
}

// row reads a delivery; ok is false if it was pruned or skip says so of its status.
func (w *walk) row(p position, skip func(postrider.Status) bool) (r row, ok bool, err error) {
	w.s.mu.Lock()
	webhook := w.hooks[p.hook-1].webhook
	w.s.mu.Unlock()
	r = row{seq: p.seq, hook: p.hook, webhook: webhook}
	if _, err := r.read(w.file, false, true); err != nil {
		return r, false, err
	}
	if r.ended == nil {
		if skip(postrider.StatusNew) || p.seq <= w.flushedOf(p.hook) && !w.file.has(bBy, byKey(p.hook, p.seq)) {
			return r, false, nil
		}
	} else if skip(r.ended.status) {
		return r, false, nil
	}
	ok, err = r.read(w.file, true, false)
	return r, ok, err
}

// Deliveries returns a page of deliveries.
func (s *Store) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (page postrider.Page[postrider.Delivery], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	key := cursor.Deliveries(q)
	var seq, hook uint64
	set, err := cursor.Decode(q.Cursor, key, &seq, &hook)
	if err != nil {
		return page, err
	}
	if err := s.enter(ctx); err != nil {
		return page, err
	}
	defer s.life.RUnlock()
	if q.ID != "" {
		d, _, err := s.oneDelivery(q)
		if d != nil && !set {
			page.Items = []postrider.Delivery{*d}
		}
		return page, err
	}
	w, err := s.newWalk(q.WebhookID, q.Ascending)
	if err != nil || w == nil {
		return page, err
	}
	w.from, w.set = position{seq, uint32(hook)}, set
	skip := func(status postrider.Status) bool { return len(q.Statuses) > 0 && !slices.Contains(q.Statuses, status) }
	limit := limitOf(q.Limit)
	var places []position
	err = s.view(func(file *reader) error {
		w.file = file
		more, err := w.run(func(p position) (bool, error) {
			if len(page.Items) == limit {
				return false, nil
			}
			r, ok, err := w.row(p, skip)
			if err != nil || !ok {
				return err == nil, err
			}
			d, _, err := r.delivery(s.mask)
			if err == nil && q.Matches(&d) {
				page.Items = append(page.Items, d)
				places = append(places, p)
			}
			return err == nil, err
		})
		if more {
			page.Next = cursor.Encode(key, w.from.seq, uint64(w.from.hook))
		}
		return err
	})
	if err != nil {
		return postrider.Page[postrider.Delivery]{}, err
	}
	for i, p := range places {
		page.Items[i].InFlight = s.inFlight(p.seq, p.hook)
	}
	return page, nil
}

// oneDelivery returns the delivery that a query names, nil if it does not match.
func (s *Store) oneDelivery(q postrider.DeliveryQuery) (*postrider.Delivery, []postrider.Attempt, error) {
	r, err := s.find(q.ID)
	if err != nil || r == nil {
		return nil, nil, err
	}
	d, attempts, err := r.delivery(s.mask)
	if err != nil || !q.Matches(&d) {
		return nil, nil, err
	}
	d.InFlight = s.inFlight(r.seq, r.hook)
	return &d, attempts, nil
}

// Attempts returns a page of attempts.
func (s *Store) Attempts(ctx context.Context, q postrider.AttemptQuery) (page postrider.Page[postrider.Attempt], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	// The position is a delivery and the lowest number of it that was returned.
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
	limit := limitOf(q.Limit)
	// take adds a delivery's attempts, newest first, and reports whether all had room.
	take := func(p position, attempts []postrider.Attempt) bool {
		for _, a := range slices.Backward(attempts) {
			if p == last && set && uint64(a.Number) >= number {
				continue
			}
			if len(page.Items) == limit {
				page.Next = cursor.Encode(key, last.seq, uint64(last.hook), number)
				return false
			}
			page.Items = append(page.Items, a)
			last, number, set = p, uint64(a.Number), true
		}
		return true
	}
	if q.DeliveryID != "" {
		d, attempts, err := s.oneDelivery(postrider.DeliveryQuery{ID: q.DeliveryID, WebhookID: q.WebhookID})
		if d != nil {
			_, seq, no, _ := s.mask.split(d.ID)
			take(position{seq, no}, attempts)
		}
		return page, err
	}
	w, err := s.newWalk(q.WebhookID, false)
	if err != nil || w == nil {
		return page, err
	}
	if set {
		w.from, w.set = position{seq, uint32(hook) + 1}, true // so that its own delivery is visited again
		if q.WebhookID != "" {
			w.from = position{seq + 1, 0}
		}
	}
	err = s.view(func(file *reader) error {
		w.file = file
		more, err := w.run(func(p position) (bool, error) {
			r, ok, err := w.row(p, func(status postrider.Status) bool { return status == postrider.StatusNew })
			if err != nil || !ok {
				return err == nil, err
			}
			_, attempts, err := r.delivery(s.mask)
			return err == nil && take(p, attempts), err
		})
		if more && page.Next == "" {
			// All attempts of the last delivery visited were taken, if it had any.
			page.Next = cursor.Encode(key, w.from.seq, uint64(w.from.hook), 0)
		}
		return err
	})
	if err != nil {
		return postrider.Page[postrider.Attempt]{}, err
	}
	return page, nil
}

// Stats returns counts.
func (s *Store) Stats(ctx context.Context, q postrider.StatsQuery) (st postrider.Stats, err error) {
	if err := s.enter(ctx); err != nil {
		return st, err
	}
	defer s.life.RUnlock()
	if err := s.notice(); err != nil {
		return st, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.WebhookID != "" {
		h := s.byID[q.WebhookID]
		if h == nil {
			return st, fmt.Errorf("webhook %q: %w", q.WebhookID, postrider.ErrNotFound)
		}
		h.addTo(&st)
		st.InFlight = int64(h.place.Held())
		return st, nil
	}
	for _, h := range s.hooks {
		h.addTo(&st)
	}
	st.InFlight = int64(s.board.Held() - s.busy)
	return st, nil
}

// addTo adds the webhook's counts.
func (h *hook) addTo(st *postrider.Stats) {
	started := uint64(0)
	for status := postrider.StatusInProcess; status <= postrider.StatusFailed; status++ {
		started += h.stat.count[status]
		*st.Count(status) += int64(h.stat.count[status])
	}
	st.New += int64(h.total() - started)
	st.Pruned += int64(h.stat.pruned)
	st.AttemptsOK += int64(h.stat.ok)
	st.AttemptsFailed += int64(h.stat.failed)
}
