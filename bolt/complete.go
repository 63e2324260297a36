package bolt

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

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
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.life.RUnlock()
	if err := s.refresh(ctx); err != nil {
		return 0, err
	}
	c := completions.Get().(*completion)
	c.begin(s, len(outcomes))
	size := 0
	for i := range outcomes {
		if a := outcomes[i].Attempt; a != nil {
			size += attemptSize + len(a.Error) + len(a.Body)
		}
	}
	records := slices.Grow(c.records, size)
	writes := false
	for i := range outcomes {
		r := &c.results[i]
		r.outcome = outcomes[i]
		if a := outcomes[i].Attempt; a != nil {
			from := len(records)
			records, _ = a.AppendBinary(records) // never fails
			r.attempt = records[from:len(records):len(records)]
			r.failed, r.code = a.Failed, a.Code
			r.outcome.Attempt = nil // the caller's
		}
		if change := outcomes[i].Webhook; change != nil {
			copied := *change
			if h := change.Health; h != nil {
				rules := *h
				copied.Health = &rules
			}
			r.outcome.Webhook = &copied
		}
		writes = writes || r.attempt != nil || outcomes[i].Webhook != nil
	}
	c.records = records
	if !writes && c.release() {
		return c.end(), nil
	}
	if err := s.submit(ctx, &op{apply: c.apply, done: c.doneLocked, undo: c.undoLocked, size: size + 128*len(outcomes)}); err != nil {
		return 0, err
	}
	return c.end(), nil
}

// attemptSize is about what an attempt takes beside its error and its body.
const attemptSize = 96

// completion is one Complete.
type completion struct {
	s       *Store
	results []result
	records []byte // their attempts
	n       int
	now     int64
}

// completions holds those that are over, to be used again.
var completions = sync.Pool{New: func() any { return new(completion) }}

func (c *completion) begin(s *Store, n int) {
	*c = completion{s: s, results: slices.Grow(c.results[:0], n)[:n], records: c.records[:0]}
}

// end returns how many outcomes were recorded, and gives back what is of use to the next completion.
func (c *completion) end() int {
	n := c.n
	clear(c.results)
	c.s = nil
	if cap(c.records) <= arenaKept {
		completions.Put(c)
	}
	return n
}

// result is an outcome on its way into the file.
type result struct {
	outcome postrider.Outcome // without Attempt
	attempt []byte            // its record; nil: released
	failed  bool
	code    int
	claim   *queue.Claim // nil: no longer held
	h       *hook
	status  postrider.Status
	due     int64
	written bool // it gets a done row
	cancel  bool // unless it was delivered
}

// release gives claims back without a write; it is false, and has done nothing, if one of them needs a write.
func (c *completion) release() bool {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range c.results {
		r := &c.results[i]
		if r.claim = s.findLocked(r.outcome.DeliveryID, r.outcome.Token); r.claim != nil && (r.claim.Settling || s.canceledLocked(r.claim)) {
			return false
		}
	}
	now := s.micros()
	for i := range c.results {
		if r := &c.results[i]; r.claim != nil && s.findLocked(r.outcome.DeliveryID, r.outcome.Token) != nil {
			s.board.Drop(r.claim, true, now)
			c.n++
		}
	}
	s.signal()
	return true
}

// canceledLocked reports whether a claimed delivery was canceled, or its webhook deleted.
func (s *Store) canceledLocked(c *queue.Claim) bool {
	return c.Canceled || s.hooks[c.Hook.No-1].deleted
}

// apply settles which outcomes are of claims that are still held, and writes those.
func (c *completion) apply(g *group) error {
	c.now = g.now
	c.s.mu.Lock()
	for i := range c.results {
		r := &c.results[i]
		if r.claim = c.s.findLocked(r.outcome.DeliveryID, r.outcome.Token); r.claim == nil {
			continue
		}
		if r.claim.Settling {
			r.claim = nil
			continue
		}
		r.h = c.s.hooks[r.claim.Hook.No-1]
		r.cancel = c.s.canceledLocked(r.claim)
		r.written = r.attempt != nil || r.cancel
		r.claim.Settling = true
		if r.written {
			r.h.ending(r.claim.Seq, true)
		}
	}
	c.s.mu.Unlock()
	for i := range c.results {
		if r := &c.results[i]; r.claim != nil {
			if err := c.write(g, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// write puts one outcome into the file. Only damage makes it fail.
func (c *completion) write(g *group, r *result) error {
	if change := r.outcome.Webhook; change != nil && !r.h.deleted {
		change.Apply(g.webhook(r.h), instant(g.now))
	}
	if !r.written {
		return nil
	}
	r.status = r.outcome.Status
	if r.cancel && (r.attempt == nil || r.status != postrider.StatusDelivered) {
		r.status = postrider.StatusCanceled
	}
	e, err := g.ended(r.h, r.claim.Seq)
	if err != nil {
		return err
	}
	before := e
	if err := g.unwait(r.h, r.claim.Seq, &e); err != nil {
		return err
	}
	if r.claim.Canceled {
		g.delete(bCancel, doneKey(r.claim.Seq, r.h.no))
	}
	if r.attempt != nil {
		e.add(r.attempt)
		if r.code != 0 {
			e.code = uint64(r.code)
		}
		g.attempted(r.h, r.failed)
	}
	e.due, e.finished = 0, g.now
	if r.status == postrider.StatusInProcess {
		e.due, e.finished = g.now+r.outcome.RetryIn.Microseconds(), 0
		r.due = e.due
		g.put(bRetry, retryKey(r.h.no, e.due, r.claim.Seq), nil)
		g.waits(r.h, e.due, 1)
	}
	return g.end1(r.h, r.claim.Seq, e, before, r.status)
}

// ended returns the done row of a delivery for changing, or a new one.
func (g *group) ended(h *hook, seq uint64) (e ended, err error) {
	if seq > g.stat(h).done {
		return e, nil
	}
	v := g.get(bDone, doneKey(seq, h.no))
	if v == nil {
		return e, nil
	}
	return decodeEnded(v)
}

// unwait takes out of the file what a delivery with this done row waits by.
func (g *group) unwait(h *hook, seq uint64, e *ended) error {
	switch e.status {
	case postrider.StatusInProcess:
		g.delete(bRetry, retryKey(h.no, e.due, seq))
		g.waits(h, e.due, -1)
	case postrider.StatusNew:
		return g.started(h, seq)
	}
	return nil
}

// end1 writes a done row with a new status, counts it, and moves its keys in odd. If that ends the delivery, the next
// of its lane gets its turn.
func (g *group) end1(h *hook, seq uint64, e, before ended, after postrider.Status) error {
	e.status = after
	var old [][]byte
	if before.status != postrider.StatusNew {
		old = before.oddKeys(seq, h.no)
	}
	keys := e.oddKeys(seq, h.no)
	for _, k := range old {
		if !contains(keys, k) {
			g.delete(bOdd, k)
		}
	}
	for _, k := range keys {
		if !contains(old, k) {
			g.put(bOdd, k, nil)
		}
	}
	g.put(bDone, doneKey(seq, h.no), e.append(g.arena.room(e.size())))
	st := g.stat(h)
	st.done = max(st.done, seq)
	if before.status != postrider.StatusNew {
		st.count[before.status]--
	}
	st.count[after]++
	if !after.Final() {
		return nil
	}
	return g.leave(h, seq)
}

func contains(keys [][]byte, k []byte) bool {
	return slices.ContainsFunc(keys, func(other []byte) bool { return bytes.Equal(k, other) })
}

func (c *completion) doneLocked() {
	s := c.s
	for i := range c.results {
		r := &c.results[i]
		if r.claim == nil {
			continue
		}
		c.n++
		r.claim.Settling = false
		s.board.Drop(r.claim, !r.written, c.now)
		if r.written {
			r.h.settle(r.claim.Seq)
		}
		if r.written && r.status == postrider.StatusInProcess {
			r.h.wait(queue.Entry{Seq: r.claim.Seq, Due: r.due})
			s.board.Touch(&r.h.place, c.now)
		}
	}
	if c.n > 0 {
		s.signal()
	}
}

func (c *completion) undoLocked() {
	for i := range c.results {
		if r := &c.results[i]; r.claim != nil {
			r.claim.Settling = false
			if r.written {
				r.h.ending(r.claim.Seq, false)
			}
		}
	}
}
