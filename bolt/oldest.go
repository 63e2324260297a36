package bolt

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// pending is what Stats needs to find the delivery of a webhook that has been due longest, as it was while Store.mu
// was held.
type pending struct {
	h      *hook
	fresh  bool      // some without a done row are due
	later  bool      // some are in retry
	from   uint64    // no fresh one below is open
	done   uint64    // none above has a done row
	young  []arrived // only appended to, and cut at the front
	looked uint64    // what from may be the next time
}

func (h *hook) pendingLocked() pending {
	return pending{
		h:     h,
		fresh: h.untried() > h.parked(),
		later: h.stat.count[postrider.StatusInProcess] > 0 || h.laned() > 0,
		from:  max(h.stat.ended+1, h.looked),
		done:  h.stat.done,
		young: h.young,
	}
}

// oldestDue returns when the delivery became due that has been due longest, the zero time if none is due. It costs a
// webhook with work one search in retry and one in by, and a search in done for each delivery that has ended out of
// turn or is parked. Since deliveries are made in the order of their numbers, of fresh ones only those are looked for
// that may come before what was found already.
func oldestDue(file *reader, list []pending, now int64) time.Time {
	due, seq := now+1, uint64(math.MaxUint64)
	for i := range list {
		p := &list[i]
		if p.later {
			if e, ok := p.firstRetry(file); ok {
				due = min(due, e.Due)
			}
		}
		if p.fresh && p.from < seq {
			if e, ok := p.firstFresh(file); ok {
				due, seq = min(due, e.Due), min(seq, e.Seq)
			}
		}
	}
	if due > now {
		return time.Time{}
	}
	return instant(due)
}

// firstRetry returns what is due first of those that wait for a retry, or were promoted in their lane.
func (p *pending) firstRetry(file *reader) (e queue.Entry, ok bool) {
	k, _ := file.cursor(bRetry).Seek(retryKey(p.h.no, 0, 0))
	if k == nil || binary.BigEndian.Uint32(k) != p.h.no {
		return e, false
	}
	return queue.Entry{Due: int64(binary.BigEndian.Uint64(k[4:])), Seq: binary.BigEndian.Uint64(k[12:])}, true
}

// firstFresh returns the first open delivery without a done row that was not stored as parked. It passes over those
// that were, and those that were ended out of turn, each of them once for all calls; when it has passed over as many as
// one call may, it returns the one it has come to: the one that is due first was made then or later.
func (p *pending) firstFresh(file *reader) (e queue.Entry, ok bool) {
	left := maxExamine
	open := func(at queue.Entry, parked bool) bool {
		e, p.looked = at, at.Seq
		left--
		return left == 0 || !parked && (at.Seq > p.done || !file.has(bDone, doneKey(at.Seq, p.h.no)))
	}
	c := file.cursor(bBy)
	for k, v := c.Seek(byKey(p.h.no, p.from)); k != nil && binary.BigEndian.Uint32(k) == p.h.no; k, v = c.Next() {
		if open(queue.Entry{Seq: binary.BigEndian.Uint64(k[4:]), Due: int64(binary.BigEndian.Uint64(v))}, parkedInBy(v)) {
			return e, true
		}
	}
	for _, a := range p.young[index(p.young, p.from):] {
		if open(a.Entry, a.parked) {
			return e, true
		}
	}
	return e, false
}
