// Package memstore is a postrider.Store in memory: for tests, and for programs that accept that what has not been
// delivered is gone when they end.
package memstore

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// Options are the settings of a Store. The zero value is fine.
type Options struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Store is a postrider.Store in memory. Its memory grows with everything it keeps; Prune gives it back.
type Store struct {
	now    func() time.Time
	wake   chan struct{} // buffered(1): something may have become due
	closed chan struct{}
	write  chan struct{} // a token: who holds it may write; a Tx does for its whole life

	mu      sync.Mutex // guards everything below
	board   *queue.Board
	shut    bool
	latest  int64 // the last time that was handed out as a creation time
	seq     uint64
	hooks   []*hook // in the order of creation; hooks[i].place.No is i
	byID    map[string]*hook
	byName  map[string]*hook
	events  map[string]*event // by project and ID
	log     []*delivery       // in the order of commits; nil where pruned
	byDelID map[string]*delivery
	ended   []*delivery // in the order of their ends
	stats   postrider.Stats
}

// hook is a webhook and what is kept of it.
type hook struct {
	postrider.Webhook
	place   queue.Hook
	deleted bool
	waiting queue.Entries
	log     []*delivery // in the order of commits
	open    map[uint64]*delivery
	stats   postrider.Stats
}

type event struct {
	postrider.Event
	deliveries int // that are kept
}

// delivery is guarded by Store.mu. Attempts are only appended, and never changed.
type delivery struct {
	postrider.Delivery // without what view fills in
	seq                uint64
	due                int64
	hook               *hook
	event              *event
	attempts           []postrider.Attempt
	pruned             bool
}

// New returns an empty store.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{
		now:     o.Now,
		wake:    make(chan struct{}, 1),
		closed:  make(chan struct{}),
		write:   make(chan struct{}, 1),
		board:   queue.New(uuid.NewString() + "-"),
		byID:    map[string]*hook{},
		byName:  map[string]*hook{},
		events:  map[string]*event{},
		byDelID: map[string]*delivery{},
	}
}

var _ postrider.Store = (*Store)(nil)

// Close ends the store's use and forgets what it kept.
func (s *Store) Close() error {
	s.write <- struct{}{}
	defer func() { <-s.write }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shut {
		s.shut = true
		close(s.closed)
	}
	return nil
}

// Wait returns when something may have become due.
func (s *Store) Wait(ctx context.Context) error {
	select {
	case <-s.closed: // before a wake-up that is left over
		return postrider.ErrClosed
	default:
	}
	select {
	case <-s.closed:
		return postrider.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	case <-s.wake:
		return nil
	}
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lock takes the state for reading, or for a write that no transaction can be in the way of.
func (s *Store) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.shut {
		s.mu.Unlock()
		return postrider.ErrClosed
	}
	return nil
}

// lockWrite waits for transactions to end and takes the state.
func (s *Store) lockWrite(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.write <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.lock(ctx); err != nil {
		<-s.write
		return err
	}
	return nil
}

func (s *Store) unlockWrite() {
	s.mu.Unlock()
	<-s.write
}

func (s *Store) micros() int64 { return s.now().UnixMicro() }

func instant(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// Enqueue stores events and makes their deliveries.
func (s *Store) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	if err := s.lockWrite(ctx); err != nil {
		return nil, err
	}
	defer s.unlockWrite()
	st := stage{s: s}
	receipts, err := st.add(items)
	if err != nil {
		return nil, err
	}
	st.applyLocked()
	return receipts, nil
}

// Begin starts a transaction. Until it ends every other writing method waits, and it may be used by one goroutine.
func (s *Store) Begin() *Tx {
	s.write <- struct{}{}
	return &Tx{stage: stage{s: s}}
}

// Tx is a transaction of the caller, which sees its own events as stored.
type Tx struct {
	stage stage
	over  bool
}

var _ postrider.Enqueuer = (*Tx)(nil)

// Enqueue stores events and makes their deliveries once Commit is called.
func (t *Tx) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	if t.over {
		return nil, fmt.Errorf("%w: the transaction has ended", postrider.ErrClosed)
	}
	if err := t.stage.s.lock(ctx); err != nil {
		return nil, err
	}
	defer t.stage.s.mu.Unlock()
	return t.stage.add(items)
}

// Commit stores what was enqueued and wakes the dispatcher.
func (t *Tx) Commit() error {
	if t.over {
		return fmt.Errorf("%w: the transaction has ended", postrider.ErrClosed)
	}
	t.over = true
	s := t.stage.s
	s.mu.Lock()
	defer s.unlockWrite()
	if s.shut {
		return postrider.ErrClosed
	}
	t.stage.applyLocked()
	return nil
}

// Rollback forgets what was enqueued. After Commit it does nothing.
func (t *Tx) Rollback() error {
	if !t.over {
		t.over = true
		<-t.stage.s.write
	}
	return nil
}

// stage holds events and deliveries that are not stored yet.
type stage struct {
	s          *Store
	events     []*event
	fresh      map[string]*event
	deliveries []*delivery
}

func key(project, id string) string { return project + "\x00" + id }

// add checks all items and then stages them. It is called with mu held.
func (st *stage) add(items []postrider.Item) ([]postrider.Receipt, error) {
	receipts := make([]postrider.Receipt, len(items))
	targets := make([][]*hook, len(items))
	for i := range items {
		it := &items[i]
		receipts[i].EventID = it.Event.ID
		eventType := it.Event.Type
		if it.ReplayOf != "" {
			ev := st.find(it)
			if ev == nil {
				return nil, fmt.Errorf("items[%d]: event %q: %w", i, it.Event.ID, postrider.ErrNotFound)
			}
			eventType = ev.Type
		}
		var err error
		if targets[i], err = st.s.targetsLocked(it, eventType); err != nil {
			return nil, fmt.Errorf("items[%d]: %w", i, err)
		}
	}
	created := max(st.s.micros(), st.s.latest)
	for i := range items {
		it := &items[i]
		ev := st.find(it)
		switch {
		case it.ReplayOf == "" && ev != nil:
			receipts[i].Duplicate = true
			continue
		case len(targets[i]) == 0:
			continue
		case ev == nil:
			ev = st.addEvent(it.Event)
		}
		for _, h := range targets[i] {
			d := &delivery{hook: h, event: ev, due: created}
			d.Delivery = postrider.Delivery{
				ID: uuid.Must(uuid.NewV7()).String(), EventID: ev.ID, Project: ev.Project, EventType: ev.Type,
				WebhookID: h.ID, CreatedAt: instant(created), Test: it.Test, ReplayOf: it.ReplayOf,
			}
			st.deliveries = append(st.deliveries, d)
			receipts[i].Deliveries = append(receipts[i].Deliveries, d.ID)
		}
	}
	return receipts, nil
}

func (st *stage) find(it *postrider.Item) *event {
	k := key(it.Event.Project, it.Event.ID)
	if ev := st.fresh[k]; ev != nil {
		return ev
	}
	return st.s.events[k]
}

// addEvent copies the event: nothing of the caller's is kept.
func (st *stage) addEvent(e postrider.Event) *event {
	b, _ := e.AppendBinary(nil)
	ev := &event{}
	if err := ev.UnmarshalBinary(b); err != nil {
		panic(err) // what was just encoded decodes
	}
	if st.fresh == nil {
		st.fresh = map[string]*event{}
	}
	st.fresh[key(e.Project, e.ID)] = ev
	st.events = append(st.events, ev)
	return ev
}

// targetsLocked returns the webhooks that an item goes to, in the order of their creation.
func (s *Store) targetsLocked(it *postrider.Item, eventType string) (hooks []*hook, err error) {
	if it.To == nil {
		for _, h := range s.hooks {
			if !h.deleted && h.Project == it.Event.Project && h.Matches(eventType) {
				hooks = append(hooks, h)
			}
		}
		return hooks, nil
	}
	for _, id := range it.To {
		h := s.byID[id]
		if h == nil || h.deleted || h.Project != it.Event.Project {
			return nil, fmt.Errorf("webhook %q: %w", id, postrider.ErrNotFound)
		}
		hooks = append(hooks, h)
	}
	slices.SortFunc(hooks, func(a, b *hook) int { return cmp.Compare(a.place.No, b.place.No) })
	return hooks, nil
}

// applyLocked stores what is staged.
func (st *stage) applyLocked() {
	s := st.s
	if len(st.deliveries) == 0 {
		return
	}
	now := s.micros()
	for _, ev := range st.events {
		s.events[key(ev.Project, ev.ID)] = ev
	}
	for _, d := range st.deliveries {
		s.seq++
		d.seq = s.seq
		d.event.deliveries++
		s.latest = max(s.latest, d.due)
		s.log = append(s.log, d)
		s.byDelID[d.ID] = d
		d.hook.log = append(d.hook.log, d)
		d.hook.open[d.seq] = d
		s.count(d.hook, func(st *postrider.Stats) { st.New++ })
		d.hook.waiting.Push(queue.Entry{Seq: d.seq, Due: d.due})
		s.board.Touch(&d.hook.place, now)
	}
	s.signal()
}

func (s *Store) count(h *hook, f func(*postrider.Stats)) {
	f(&s.stats)
	f(&h.stats)
}

// source makes hook a queue.Source. An entry whose delivery has ended, or is due at another time, is passed over.
type source struct {
	s *Store
	h *hook
}

func (q source) Head() (queue.Entry, queue.Answer) {
	for len(q.h.waiting) > 0 {
		e := q.h.waiting[0]
		if d := q.h.open[e.Seq]; d != nil && d.due == e.Due {
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
	if d == nil || d.Status.Final() || d.hook.deleted || s.board.Find(d.ref()) != nil {
		return nil, postrider.Forever, nil
	}
	c := s.board.Hold(&d.hook.place, queue.Entry{Seq: d.seq, Due: d.due}, r.Lease, now)
	return []postrider.Claim{s.claimLocked(c)}, 0, nil
}

func (d *delivery) ref() queue.Ref { return queue.Ref{Seq: d.seq, Hook: d.hook.place.No} }

func (s *Store) claimLocked(c *queue.Claim) postrider.Claim {
	h := s.hooks[c.Hook.No]
	d := h.open[c.Seq]
	return postrider.Claim{Delivery: s.viewLocked(d), Event: d.event.Event, Webhook: h.Webhook, Token: c.Token}
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
}

func (s *Store) moveLocked(d *delivery, status postrider.Status) {
	from := d.Status
	d.Status = status
	s.count(d.hook, func(st *postrider.Stats) {
		*st.Count(from)--
		*st.Count(status)++
	})
}

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
	s.count(d.hook, func(st *postrider.Stats) {
		if a.Failed {
			st.AttemptsFailed++
		} else {
			st.AttemptsOK++
		}
	})
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
	d.hook.waiting.Push(queue.Entry{Seq: d.seq, Due: d.due})
	s.board.Touch(&d.hook.place, now)
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

// clone returns a copy of the webhook that shares nothing, with times as the codec keeps them.
func clone(w postrider.Webhook) postrider.Webhook {
	b, _ := w.AppendBinary(nil)
	var c postrider.Webhook
	if err := c.UnmarshalBinary(b); err != nil {
		panic(err) // what was just encoded decodes
	}
	return c
}

func nameKey(w *postrider.Webhook) string { return key(w.Project, w.Name) }
