package bolt

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// parked cancels deliveries that wait for their turn in a lane.
func (x *changing) parked(g *group, h *hook) error {
	next := uint64(1)
	if x.from.hook == h.no && x.from.stage == stageParked {
		next = max(x.from.seq, 1)
	}
	// In parts, as in waiting.
	for next > 0 {
		var seqs []uint64
		seqs, next = parkedPart(g, h, next)
		for _, seq := range seqs {
			if seq > x.high {
				return nil
			}
			if x.full() {
				x.stop(resume{hook: h.no, stage: stageParked, seq: seq})
				return nil
			}
			x.seen++
			l, created, _, err := g.laneOf(h, seq)
			if err != nil {
				return err
			}
			if !g.parked(h.no, l, seq) {
				continue // promoted: among those that wait
			}
			ok, err := x.selects(g, h, seq)
			if err == nil && ok {
				err = x.change(g, h, queue.Entry{Seq: seq, Due: created}, true)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// parkedPart returns a part of the webhook's deliveries that were stored as parked and have not been tried, and where
// the next begins, 0 at the end.
func parkedPart(g *group, h *hook, from uint64) (seqs []uint64, next uint64) {
	prefix := oddPrefix(h.no, oddStatus, byte(postrider.StatusNew))
	c := g.bucket(bOdd).Cursor()
	for k, _ := c.Seek(append(slices.Clone(prefix), doneKey(from, 0)...)); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		seq, _ := splitDone(k[len(prefix):])
		if len(seqs) == readAhead {
			return seqs, seq
		}
		seqs = append(seqs, seq)
	}
	return seqs, 0
}

// fresh cancels deliveries without a done row, from the first that may have none, but for those stored as parked.
func (x *changing) fresh(g *group, h *hook) error {
	x.s.mu.Lock()
	from := max(h.mark(), h.swept) + 1
	young := h.young
	x.s.mu.Unlock()
	sweeps := !x.narrow && x.high == math.MaxUint64 // whatever is passed has ended, or will when its claim does
	order := true                                   // all so far have ended, are outstanding or were stored as parked
	if x.from.hook == h.no && x.from.stage == stageFresh && x.from.seq > from {
		from, order, sweeps = x.from.seq, false, false
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
		err := x.change(g, h, e, false)
		if len(x.changed) > n {
			x.changed[n].order = order
		}
		if sweeps {
			x.swept[h] = e.Seq
		}
		return err
	}
	c := g.bucket(bBy).Cursor()
	for k, v := c.Seek(byKey(h.no, from)); k != nil && binary.BigEndian.Uint32(k) == h.no; k, v = c.Next() {
		e := queue.Entry{Seq: binary.BigEndian.Uint64(k[4:]), Due: int64(binary.BigEndian.Uint64(v))}
		if e.Seq > x.high {
			return nil
		}
		if x.full() {
			x.stop(resume{hook: h.no, stage: stageFresh, seq: e.Seq})
			return nil
		}
		if parkedInBy(v) {
			x.seen++
		} else if err := visit(e); err != nil {
			return err
		}
	}
	for _, e := range young {
		if e.Seq < from {
			continue
		}
		if e.Seq > x.high {
			return nil
		}
		if x.full() {
			x.stop(resume{hook: h.no, stage: stageFresh, seq: e.Seq})
			return nil
		}
		if e.parked {
			x.seen++
		} else if err := visit(e.Entry); err != nil {
			return err
		}
	}
	return nil
}

// waiting changes deliveries that wait for a retry, or have got their turn.
func (x *changing) waiting(g *group, h *hook, laned bool) error {
	from := retryKey(h.no, 0, 0)
	if x.Kind == postrider.ChangeDue {
		from = retryKey(h.no, g.now+1, 0)
	}
	if x.from.stage == stageWaiting && x.from.hook == h.no && bytes.Compare(x.from.at, from) > 0 {
		from = x.from.at
	}
	// In parts whose keys are collected first: the cursor does not bear changes.
	for from != nil {
		var entries []queue.Entry
		entries, from = waitingPart(g, h, from)
		for _, e := range entries {
			if x.full() {
				x.stop(resume{hook: h.no, stage: stageWaiting, at: retryKey(h.no, e.Due, e.Seq)})
				return nil
			}
			x.seen++
			if e.Seq > x.high {
				continue
			}
			if laned {
				if row, err := g.ended(h, e.Seq); err != nil || !x.wants(row.status) {
					if err != nil {
						return err
					}
					continue
				}
			}
			ok, err := x.selects(g, h, e.Seq)
			if err == nil && ok {
				err = x.change(g, h, e, false)
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
