package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/postrider/postrider"
)

// Enqueue stores events and makes their deliveries.
func (s *Store) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	if err := s.lockWrite(ctx); err != nil {
		return nil, err
	}
	defer s.unlockWrite()
	st := newStage(s)
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
	return &Tx{stage: newStage(s)}
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
	runs       map[string]bool // of deliveries
	deliveries []*delivery
}

func key(project, id string) string { return project + "\x00" + id }

func (e *event) key() string { return key(e.Project, e.ID) }

// runKey names what a Run does at most once, "" if there is no bound.
func runKey(it *postrider.Item, h *hook) string {
	if it.ReplayOf == "" || it.Run == "" {
		return ""
	}
	return key(it.Run, h.ID)
}

func newStage(s *Store) stage {
	return stage{s: s, fresh: map[string]*event{}, runs: map[string]bool{}}
}

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
		receipts[i].Duplicate = it.ReplayOf != ""
		for _, h := range targets[i] {
			run := runKey(it, h)
			if run != "" && (ev.runs[run] || st.runs[key(ev.key(), run)]) {
				continue
			}
			receipts[i].Duplicate = false
			if run != "" {
				st.runs[key(ev.key(), run)] = true
			}
			d := &delivery{hook: h, event: ev, due: created, lane: laneOf(it, h), run: run}
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
	st.fresh[ev.key()] = ev
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
		s.events[ev.key()] = ev
	}
	for _, d := range st.deliveries {
		s.seq++
		d.seq = s.seq
		d.event.deliveries++
		s.latest = max(s.latest, d.due)
		s.log = append(s.log, d)
		s.byDelID[d.ID] = d
		s.byEvent[d.EventID] = append(s.byEvent[d.EventID], d)
		d.hook.log = append(d.hook.log, d)
		d.hook.open[d.seq] = d
		d.hook.stats.New++
		if d.run != "" {
			if d.event.runs == nil {
				d.event.runs = map[string]bool{}
			}
			d.event.runs[d.run] = true
		}
		if !d.hook.enterLane(d) {
			s.waitLocked(d, now)
		}
	}
	s.signal()
}
