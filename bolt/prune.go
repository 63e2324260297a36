package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

// Prune deletes deliveries that ended at least age ago. It goes through done in the order of commits, a part in each
// call, and begins again when it meets events that are too young to have deliveries that old.
func (s *Store) Prune(ctx context.Context, age time.Duration, max int) (n int, more bool, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, false, err
	}
	defer s.life.RUnlock()
	p := &pruning{s: s, max: max, limit: s.now().Add(-age).UnixMicro()}
	if err := s.submit(ctx, &op{apply: p.apply, done: p.doneLocked, alone: true}); err != nil {
		return 0, false, err
	}
	return p.n, p.more, nil
}

// pruning is one Prune.
type pruning struct {
	s     *Store
	max   int
	limit int64 // what ended after it stays
	n     int
	more  bool
	next  []byte // key of done at which the next call goes on
}

// gone is a delivery to be deleted.
type gone struct {
	seq  uint64
	hook uint32
	ended
}

func (p *pruning) apply(g *group) error {
	list, err := p.collect(g)
	if err != nil {
		return err
	}
	for start := 0; start < len(list); {
		end := start
		for end < len(list) && list[end].seq == list[start].seq {
			end++
		}
		if err := p.event(g, list[start:end]); err != nil {
			return err
		}
		start = end
	}
	p.n = len(list)
	return nil
}

// collect returns what is to be deleted. Deleting with a cursor would go through emptied pages again and again.
func (p *pruning) collect(g *group) (list []gone, err error) {
	p.s.mu.Lock()
	from := p.s.pruneAt
	p.s.mu.Unlock()
	c := g.bucket(bDone).Cursor()
	k, v := c.Seek(from)
	for seen := 0; k != nil; k, v = c.Next() {
		if len(list) == p.max || seen == maxExamine {
			p.more, p.next = true, append([]byte(nil), k...)
			return list, nil
		}
		seen++
		e, err := decodeEnded(v)
		if err != nil {
			return nil, err
		}
		seq, no := splitDone(k)
		if no == 0 || int(no) > len(p.s.hooks) {
			return nil, errRecord
		}
		if e.status.Final() && e.finished <= p.limit {
			list = append(list, gone{seq, no, e})
			continue
		}
		r, err := decodeRecord(g.get(bLog, seqKey(seq)))
		if err != nil {
			return nil, err
		}
		if r.created > p.limit {
			return list, nil // younger ones cannot have ended before
		}
	}
	return list, nil
}

// event deletes deliveries of one event, and the event if they were the last.
func (p *pruning) event(g *group, list []gone) error {
	seq := list[0].seq
	r, err := decodeRecord(g.get(bLog, seqKey(seq)))
	if err != nil {
		return err
	}
	pruned := map[uint32]bool{}
	for _, d := range list {
		h := p.s.hooks[d.hook-1]
		g.carryNow(h, seq)
		pruned[d.hook] = true
		for _, k := range d.oddKeys(seq, d.hook) {
			g.delete(bOdd, k)
		}
		for _, k := range r.oddKeys(seq, d.hook) {
			g.delete(bOdd, k)
		}
		g.delete(bDone, doneKey(seq, d.hook))
		g.delete(bBy, byKey(d.hook, seq))
		st := g.stat(h)
		st.count[d.status]--
		st.pruned++
	}
	for i := range r.len() {
		no := r.hook(i)
		if !pruned[no] && p.kept(g, seq, no) {
			return nil
		}
	}
	var e postrider.Event
	if err := e.UnmarshalBinary(r.event); err != nil {
		return err
	}
	if r.flags&flagReplay != 0 {
		g.delete(bAgain, againKey(e.Project, e.ID, seq))
	}
	key := eventKey(e.Project, e.ID)
	if at := g.get(bKey, key); at != nil && binary.BigEndian.Uint64(at) == seq {
		// The event lives on in a replay of it, if there is one.
		prefix := append(eventKey(e.Project, e.ID), 0)
		if k, _ := g.bucket(bAgain).Cursor().Seek(prefix); bytes.HasPrefix(k, prefix) {
			g.put(bKey, key, slices.Clone(k[len(prefix):]))
		} else {
			g.delete(bKey, key)
		}
	}
	g.delete(bLog, seqKey(seq))
	return nil
}

// kept reports whether a delivery of an event is still there.
func (p *pruning) kept(g *group, seq uint64, no uint32) bool {
	if g.has(bDone, doneKey(seq, no)) || g.has(bBy, byKey(no, seq)) {
		return true
	}
	return seq > g.stat(p.s.hooks[no-1]).flushed
}

// carryNow moves a webhook's young entries to by if seq is one of them: only there can a delivery be seen to be gone.
func (g *group) carryNow(h *hook, seq uint64) {
	if seq <= g.stat(h).flushed {
		return
	}
	g.s.mu.Lock()
	f := flush{h, h.young}
	g.s.mu.Unlock()
	g.flushed = append(g.flushed, f)
	g.carryHook(f)
}

func (p *pruning) doneLocked() { p.s.pruneAt = p.next }
