package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// maxExamine bounds the entries that one call looks at.
const maxExamine = 10_000

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
	x := &changing{s: s, Change: c, key: fmt.Sprintf("%d %t %+v", c.Kind, c.Deleted, c.Query)}
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
	changed []changed
	marked  []*queue.Claim // that will end as canceled
	narrow  bool           // the query has fields that only a delivery's rows can answer
	key     string         // what is changed, in words
	from    resume         // where it begins
	next    resume         // where the next call goes on, if this one examined all it may
}

// resume is where a Change goes on: it has no cursor, and must get past what its query does not select.
type resume struct {
	key     string // of the Change; "": none
	hook    uint32
	waiting bool   // among those that wait for a retry
	seq     uint64 // of a fresh one
	at      []byte // key of retry
}

type changed struct {
	claim *queue.Claim
	h     *hook
	due   int64 // of one that is made due; 0 for one that was canceled
	fresh bool  // made due in memory alone
	order bool  // all before it of its webhook have ended or are outstanding
}

func (x *changing) apply(g *group) error {
	x.now = g.now
	if x.Query.ID != "" && !x.Deleted {
		return x.one(g)
	}
	if x.s.changeAt.key == x.key {
		x.from = x.s.changeAt
	}
	for _, h := range x.s.hooks {
		if !x.concerns(h) || h.no < x.from.hook {
			continue
		}
		if x.Kind == postrider.ChangeCancel && x.wants(postrider.StatusNew) && !(x.from.waiting && x.from.hook == h.no) {
			if err := x.fresh(g, h); err != nil {
				return err
			}
		}
		if !x.more && x.wants(postrider.StatusInProcess) {
			if err := x.waiting(g, h); err != nil {
				return err
			}
		}
		if x.more {
			return nil
		}
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
	if !ok || no == 0 || int(no) > len(x.s.hooks) {
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
	return x.change(g, h, queue.Entry{Seq: seq, Due: due})
}

// fresh cancels deliveries without a done row, from the first that may have none.
func (x *changing) fresh(g *group, h *hook) error {
	x.s.mu.Lock()
	from := h.mark() + 1
	young := h.young
	x.s.mu.Unlock()
	order := true // all so far have ended or are outstanding
	if x.from.hook == h.no && x.from.seq > from {
		from, order = x.from.seq, false
	}
	done := g.stat(h).done
	visit := func(e queue.Entry) error {
		x.seen++
		if e.Seq <= done && g.has(bDone, doneKey(e.Seq, h.no)) {
			return nil
		}
		if ok, err := x.selects(g, h, e.Seq); err != nil || !ok {
			order = false
			return err
		}
		n := len(x.changed)
		err := x.change(g, h, e)
		if len(x.changed) > n {
			x.changed[n].order = order
		}
		return err
	}
	c := g.bucket(bBy).Cursor()
	for k, v := c.Seek(byKey(h.no, from)); k != nil && binary.BigEndian.Uint32(k) == h.no; k, v = c.Next() {
		if x.full() {
			x.stop(resume{hook: h.no, seq: binary.BigEndian.Uint64(k[4:])})
			return nil
		}
		if err := visit(queue.Entry{Seq: binary.BigEndian.Uint64(k[4:]), Due: int64(binary.BigEndian.Uint64(v))}); err != nil {
			return err
		}
	}
	for _, e := range young {
		if e.Seq < from {
			continue
		}
		if x.full() {
			x.stop(resume{hook: h.no, seq: e.Seq})
			return nil
		}
		if err := visit(e.Entry); err != nil {
			return err
		}
	}
	return nil
}

// waiting changes deliveries that wait for a retry.
func (x *changing) waiting(g *group, h *hook) error {
	from := retryKey(h.no, 0, 0)
	if x.Kind == postrider.ChangeDue {
		from = retryKey(h.no, g.now+1, 0)
	}
	if x.from.waiting && x.from.hook == h.no && bytes.Compare(x.from.at, from) > 0 {
		from = x.from.at
	}
	// In parts whose keys are collected first: the cursor does not bear changes.
	for from != nil {
		var entries []queue.Entry
		entries, from = waitingPart(g, h, from)
		for _, e := range entries {
			if x.full() {
				x.stop(resume{hook: h.no, waiting: true, at: retryKey(h.no, e.Due, e.Seq)})
				return nil
			}
			x.seen++
			ok, err := x.selects(g, h, e.Seq)
			if err == nil && ok {
				err = x.change(g, h, e)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// waitingPart returns a part of the webhook's deliveries that wait for a retry, and the key behind it, nil at the end.
func waitingPart(g *group, h *hook, from []byte) (entries []queue.Entry, next []byte) {
	c := g.bucket(bRetry).Cursor()
	for k, _ := c.Seek(from); k != nil && binary.BigEndian.Uint32(k) == h.no; k, _ = c.Next() {
		if len(entries) == readAhead {
			return entries, slices.Clone(k)
		}
		entries = append(entries, queue.Entry{Due: int64(binary.BigEndian.Uint64(k[4:])), Seq: binary.BigEndian.Uint64(k[12:])})
	}
	return entries, nil
}

// change does it to one open delivery.
func (x *changing) change(g *group, h *hook, e queue.Entry) error {
	held, claim := x.hold(h, e)
	switch {
	case held != nil && x.Kind == postrider.ChangeCancel && !held.Canceled && !h.deleted:
		g.put(bCancel, doneKey(e.Seq, h.no), nil)
		x.s.mu.Lock()
		held.Canceled = true
		x.s.mu.Unlock()
		x.marked = append(x.marked, held)
		x.n++
		return nil
	case held != nil, x.Kind == postrider.ChangeDue && e.Due <= g.now:
		return nil
	}
	x.changed = append(x.changed, changed{claim: claim, h: h})
	row, err := g.ended(h, e.Seq)
	if err != nil {
		return err
	}
	x.n++
	before := row
	if before.status == postrider.StatusInProcess {
		g.delete(bRetry, retryKey(h.no, row.due, e.Seq))
	}
	if x.Kind == postrider.ChangeDue && before.status == postrider.StatusNew {
		// Only after the clock went back is it not due yet. It has no done row, and gets none before its first attempt.
		x.changed[len(x.changed)-1].due, x.changed[len(x.changed)-1].fresh = g.now, true
		return nil
	}
	if x.Kind == postrider.ChangeDue {
		row.due = g.now
		x.changed[len(x.changed)-1].due = g.now
		g.put(bRetry, retryKey(h.no, g.now, e.Seq), nil)
		g.put(bDone, doneKey(e.Seq, h.no), row.append(nil))
		return nil
	}
	row.due, row.finished = 0, g.now
	g.end1(h, e.Seq, row, before, postrider.StatusCanceled)
	return nil
}

// hold returns the claim that somebody has on a delivery, or a claim of our own.
func (x *changing) hold(h *hook, e queue.Entry) (held, ours *queue.Claim) {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.board.Find(queue.Ref{Seq: e.Seq, Hook: h.no}); held != nil {
		return held, nil
	}
	if x.Kind == postrider.ChangeDue && e.Due <= x.now {
		return nil, nil
	}
	c := s.board.Hold(&h.place, e, time.Hour, x.now)
	c.Settling = true
	s.busy++
	h.ending(e.Seq, x.Kind == postrider.ChangeCancel)
	return nil, c
}

func (x *changing) doneLocked() {
	s := x.s
	if x.next.key != "" || s.changeAt.key == x.key {
		s.changeAt = x.next
	}
	for _, c := range x.changed {
		s.busy--
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
		x.s.busy--
		c.h.ending(c.claim.Seq, false)
		x.s.board.Drop(c.claim, true, x.now)
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
		if before.status == postrider.StatusInProcess {
			g.delete(bRetry, retryKey(no, e.due, seq))
		}
		e.due, e.finished = 0, g.now
		g.end1(h, seq, e, before, postrider.StatusCanceled)
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
