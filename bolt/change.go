package bolt

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// maxExamine bounds the entries that one call looks at.
const maxExamine = 10_000

// maxResumes is how many Changes at the same time get past what their queries do not select.
const maxResumes = 1 << 10

// Change makes open deliveries due now, or cancels them.
func (s *Store) Change(ctx context.Context, c postrider.Change) (n int, more bool, err error) {
	if err := c.Validate(); err != nil {
		return 0, false, err
	}
	if err := s.enter(ctx); err != nil {
		return 0, false, err
	}
	defer s.life.RUnlock()
	if err := s.refresh(ctx); err != nil {
		return 0, false, err
	}
	x := &changing{s: s, Change: c, swept: map[*hook]uint64{}, key: fmt.Sprintf("%d %t %v %+v", c.Kind, c.Deleted, c.Age, c.Query)}
	q := c.Query
	q.ID, q.WebhookID, q.Project, q.Statuses = "", "", "", nil
	q.Ascending, q.Offset, q.Limit, q.Cursor, q.WebhookName = false, 0, 0, "", ""
	x.narrow = !c.Deleted && !reflect.ValueOf(q).IsZero()
	if err := s.submit(ctx, &op{apply: x.apply, done: x.doneLocked, undo: x.undoLocked, alone: true}); err != nil {
		return 0, false, err
	}
	return x.n, x.more, nil
}

// changing is one Change. While its transaction runs it holds the deliveries that it changes, so that nobody can claim
// them.
type changing struct {
	postrider.Change
	s       *Store
	n, seen int
	more    bool
	now     int64
	high    uint64 // what is above is too young
	changed []changed
	marked  []*queue.Claim   // that will end as canceled
	narrow  bool             // the query has fields that only a delivery's rows can answer
	key     string           // what is changed, in words
	from    resume           // where it begins
	next    resume           // where the next call goes on, if this one examined all it may
	swept   map[*hook]uint64 // see hook
}

// resume is where a Change goes on: it has no cursor, and must get past what its query does not select.
type resume struct {
	key   string // of the Change; "": none
	hook  uint32
	stage stage
	seq   uint64 // of a parked or fresh one
	at    []byte // key of retry
}

// stage is a part of what is open of a webhook. What is parked comes first: so little gets its turn only to be canceled.
type stage int

const (
	stageParked  stage = iota
	stageFresh         // stored as the first of their lanes, or without one, and not tried
	stageWaiting       // promoted, or tried
)

type changed struct {
	claim  *queue.Claim
	h      *hook
	due    int64 // of one that is made due; 0 for one that was canceled
	fresh  bool  // made due in memory alone
	order  bool  // all before it of its webhook have ended, are outstanding or were stored as parked
	parked bool  // as committed: no queue has it
}

func (x *changing) apply(g *group) error {
	x.now, x.high = g.now, math.MaxUint64
	if x.Age > 0 {
		atLeast := (x.Age + time.Microsecond - 1) / time.Microsecond
		x.high = g.firstAt(g.now-int64(atLeast)+1) - 1
	}
	if x.Query.ID != "" && !x.Deleted {
		return x.one(g)
	}
	x.from = x.s.changeAt[x.key]
	for _, h := range x.s.hooks {
		if !x.concerns(h) || h.no < x.from.hook {
			continue
		}
		if err := x.hook(g, h); err != nil || x.more {
			return err
		}
	}
	return nil
}

// hook goes through what is open of a webhook.
func (x *changing) hook(g *group, h *hook) error {
	var begin stage
	if x.from.hook == h.no {
		begin = x.from.stage
	}
	laned := g.laned(h)
	fresh := x.Kind == postrider.ChangeCancel && x.wants(postrider.StatusNew)
	if fresh && laned && begin <= stageParked {
		if err := x.parked(g, h); err != nil || x.more {
			return err
		}
	}
	if fresh && begin <= stageFresh {
		if err := x.fresh(g, h); err != nil || x.more {
			return err
		}
	}
	if x.wants(postrider.StatusInProcess) || laned && x.wants(postrider.StatusNew) {
		return x.waiting(g, h, laned)
	}
	return nil
}

// concerns reports whether a webhook's deliveries may be meant.
func (x *changing) concerns(h *hook) bool {
	if x.Deleted {
		return h.deleted && h.unended() > 0
	}
	q := &x.Query
	return (q.WebhookID == "" || q.WebhookID == h.webhook.ID) && (q.Project == "" || q.Project == h.webhook.Project) && h.unended() > 0
}

func (x *changing) wants(status postrider.Status) bool {
	return x.Deleted || len(x.Query.Statuses) == 0 || slices.Contains(x.Query.Statuses, status)
}

// full notes that there is more to do if no more fits into this call.
func (x *changing) full() bool {
	if x.n == x.Max || x.seen == maxExamine {
		x.more = true
	}
	return x.more
}

// stop notes where the next call goes on, if this one has examined all it may.
func (x *changing) stop(at resume) {
	if x.seen == maxExamine && x.next.key == "" {
		x.next = at
		x.next.key = x.key
	}
}

// selects reports whether the query selects a delivery of a webhook that it concerns, with a status that it wants.
func (x *changing) selects(g *group, h *hook, seq uint64) (bool, error) {
	if !x.narrow {
		return true, nil
	}
	r := row{seq: seq, hook: h.no, webhook: h.webhook}
	if ok, err := r.read(&g.reader, true, true); err != nil || !ok {
		return false, err
	}
	d, _, err := r.delivery(x.s.mask)
	return err == nil && x.Query.Matches(&d), err
}

func (x *changing) one(g *group) error {
	_, seq, no, ok := x.s.mask.split(x.Query.ID)
	if !ok || no == 0 || int(no) > len(x.s.hooks) || seq > x.high {
		return nil
	}
	h := x.s.hooks[no-1]
	r := row{seq: seq, hook: no, webhook: h.webhook}
	if ok, err := r.read(&g.reader, true, true); err != nil || !ok {
		return err
	}
	d, _, err := r.delivery(x.s.mask)
	if err != nil || d.Status.Final() || !x.Query.Matches(&d) {
		return err
	}
	if d.Status == postrider.StatusNew && !x.s.lives(&g.reader, seq, h.no) {
		return nil
	}
	due := r.created
	if r.ended != nil {
		due = r.ended.due
	}
	return x.change(g, h, queue.Entry{Seq: seq, Due: due}, g.parked(no, r.lane, seq))
}

// change does it to one open delivery.
func (x *changing) change(g *group, h *hook, e queue.Entry, parked bool) error {
	if parked && x.Kind == postrider.ChangeDue {
		return nil // it is due, and waits for its turn
	}
	held, claim, marked := x.hold(h, e)
	switch {
	case marked:
		x.marked = append(x.marked, held)
		g.put(bCancel, doneKey(e.Seq, h.no), nil)
		x.n++
		return nil
	case held != nil, x.Kind == postrider.ChangeDue && e.Due <= g.now:
		return nil
	}
	x.changed = append(x.changed, changed{claim: claim, h: h, parked: parked || g.promotes(h, e.Seq)})
	row, err := g.ended(h, e.Seq)
	if err != nil {
		return err
	}
	x.n++
	before := row
	if x.Kind == postrider.ChangeDue && before.status == postrider.StatusNew {
		// Only after the clock went back is it not due yet. It has no done row, and gets none before its first attempt.
		x.changed[len(x.changed)-1].due, x.changed[len(x.changed)-1].fresh = g.now, true
		return nil
	}
	if err := g.unwait(h, e.Seq, &row); err != nil {
		return err
	}
	if x.Kind == postrider.ChangeDue {
		row.due = g.now
		x.changed[len(x.changed)-1].due = g.now
		g.put(bRetry, retryKey(h.no, g.now, e.Seq), nil)
		g.waits(h, g.now, 1)
		g.put(bDone, doneKey(e.Seq, h.no), row.append(nil))
		return nil
	}
	row.due, row.finished = 0, g.now
	return g.end1(h, e.Seq, row, before, postrider.StatusCanceled)
}

// hold returns the claim that somebody has on a delivery, or a claim of our own. If that somebody's is to end as canceled
// it is marked, under the same lock: else it could be given back or lost in between, and the delivery would go out.
func (x *changing) hold(h *hook, e queue.Entry) (held, ours *queue.Claim, marked bool) {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.board.Find(queue.Ref{Seq: e.Seq, Hook: h.no}); held != nil {
		marked = x.Kind == postrider.ChangeCancel && !held.Canceled && !h.deleted
		held.Canceled = held.Canceled || marked
		return held, nil, marked
	}
	if x.Kind == postrider.ChangeDue && e.Due <= x.now {
		return nil, nil, false
	}
	c := s.board.Reserve(&h.place, e, x.now)
	h.ending(e.Seq, x.Kind == postrider.ChangeCancel)
	return nil, c, false
}

func (x *changing) doneLocked() {
	s := x.s
	delete(s.changeAt, x.key)
	if x.next.key != "" {
		if s.changeAt == nil || len(s.changeAt) >= maxResumes {
			s.changeAt = map[string]resume{}
		}
		s.changeAt[x.key] = x.next
	}
	for h, seq := range x.swept {
		h.swept = max(h.swept, seq)
	}
	for _, c := range x.changed {
		s.board.Drop(c.claim, false, x.now)
		if c.due == 0 {
			c.h.settle(c.claim.Seq)
			if c.order {
				c.h.passed(c.claim.Seq)
			}
		} else if c.fresh {
			c.h.Push(queue.Entry{Seq: c.claim.Seq, Due: c.due})
		} else {
			c.h.wait(queue.Entry{Seq: c.claim.Seq, Due: c.due})
		}
		s.board.Touch(&c.h.place, x.now)
	}
	s.signal()
}

func (x *changing) undoLocked() {
	for _, c := range x.changed {
		c.h.ending(c.claim.Seq, false)
		x.s.board.Drop(c.claim, !c.parked, x.now)
	}
	for _, c := range x.marked {
		c.Canceled = false
	}
}

// endCanceled ends deliveries that were canceled while they were claimed.
func (g *group) endCanceled(keys [][]byte) error {
	for _, k := range keys {
		seq, no := splitDone(k)
		if no == 0 || int(no) > len(g.s.hooks) {
			return errRecord
		}
		h := g.s.hooks[no-1]
		e, err := g.ended(h, seq)
		if err != nil {
			return err
		}
		g.delete(bCancel, k)
		if e.status.Final() {
			continue
		}
		before := e
		if err := g.unwait(h, seq, &e); err != nil {
			return err
		}
		e.due, e.finished = 0, g.now
		if err := g.end1(h, seq, e, before, postrider.StatusCanceled); err != nil {
			return err
		}
	}
	return nil
}

// lives reports whether a delivery without a done row is there: pruned ones have left by.
func (s *Store) lives(file *reader, seq uint64, hook uint32) bool {
	if file.has(bBy, byKey(hook, seq)) {
		return true
	}
	v := file.get(bStat, hookKey(hook))
	if v == nil {
		return true
	}
	st, err := decodeStat(v)
	return err == nil && seq > st.flushed
}
