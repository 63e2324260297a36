package bolt

import (
	"encoding/binary"
	"fmt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
	"go.etcd.io/bbolt"
)

// group is one transaction and what it changes in memory.
type group struct {
	s  *Store
	tx *bbolt.Tx
	reader
	buckets [len(nameOf)]*bbolt.Bucket
	now     int64 // microseconds
	state   state
	writes  int
	foreign bool // the caller's transaction: no webhook is touched, nothing is carried to by
	stats   map[*hook]*stat
	hooks   map[*hook]*postrider.Webhook
	flushed []flush
	turns   map[queue.Ref]turn
	tally   tallying
	last    []byte // no key of an event is above; nil: not read yet
	arrived int    // how many of Store.order are in by once this is committed
}

// flush is entries of young that this transaction puts into by.
type flush struct {
	h       *hook
	entries []arrived
}

func (g *group) begin() error {
	g.now = g.s.micros()
	g.top = g.tx.Bucket(rootName)
	if g.top == nil {
		return fmt.Errorf("%w: the bucket %q is gone", postrider.ErrStore, rootName)
	}
	var err error
	if g.state, err = decodeState(g.top.Get(stateKey)); err != nil {
		return err
	}
	if g.foreign {
		return nil
	}
	return g.s.catchUp(g.tx)
}

// bucket returns a bucket with its fill percent set, which bbolt does not keep.
func (g *group) bucket(b bucket) *bbolt.Bucket {
	if g.buckets[b] == nil {
		g.buckets[b] = g.top.Bucket(nameOf[b])
		g.buckets[b].FillPercent = fillOf[b]
	}
	return g.buckets[b]
}

// put panics on an error: bbolt has one only for keys and values that we never make.
func (g *group) put(b bucket, key, value []byte) {
	g.writes++
	if err := g.bucket(b).Put(key, value); err != nil {
		panic(err)
	}
}

func (g *group) delete(b bucket, key []byte) {
	g.writes++
	if err := g.bucket(b).Delete(key); err != nil {
		panic(err)
	}
}

// stat returns the counters of a webhook for changing.
func (g *group) stat(h *hook) *stat {
	st := g.stats[h]
	if st == nil {
		st = new(stat)
		*st = h.stat
		if g.stats == nil {
			g.stats = map[*hook]*stat{}
		}
		g.stats[h] = st
	}
	return st
}

// webhook returns a webhook for changing.
func (g *group) webhook(h *hook) *postrider.Webhook {
	g.writes++
	w := g.hooks[h]
	if w == nil {
		w = new(postrider.Webhook)
		*w = *h.webhook
		if g.hooks == nil {
			g.hooks = map[*hook]*postrider.Webhook{}
		}
		g.hooks[h] = w
	}
	return w
}

// carry moves entries of young to by, those that have waited longest first, a webhook at a time, so that young stays
// small. An event with many webhooks is not carried at once: its entries lie far apart in by.
func (g *group) carry() {
	s := g.s
	s.mu.Lock()
	over := s.young - keepYoung
	taken := map[*hook]bool{}
	for _, f := range g.flushed {
		taken[f.h] = true
	}
	first := len(g.flushed)
	// there reports whether an arrival is in by once this group is committed.
	there := func(a arrival) bool { return a.seq <= a.h.stat.flushed || taken[a.h] }
	for ; g.arrived < len(s.order); g.arrived++ {
		a := s.order[g.arrived]
		if there(a) {
			continue
		}
		if over <= 0 || len(taken) >= carryHooks && over <= maxYoung-keepYoung {
			break
		}
		taken[a.h] = true
		g.flushed = append(g.flushed, flush{a.h, a.h.young})
		over -= len(a.h.young)
	}
	g.state.tail = s.state.seq + 1
	if g.arrived < len(s.order) {
		g.state.tail = s.order[g.arrived].seq
	}
	s.mu.Unlock()
	for _, f := range g.flushed[first:] {
		g.carryHook(f)
	}
}

const (
	keepYoung  = 4096      // entries that stay in memory
	carryHooks = 32        // webhooks that one commit carries, unless
	maxYoung   = 128 << 10 // so many entries wait
)

func (g *group) carryHook(f flush) {
	st := g.stat(f.h)
	values := make([]byte, 0, (byLen+1)*len(f.entries))
	for _, e := range f.entries {
		from := len(values)
		values = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(values, uint64(e.Due)), e.typ)
		if e.parked {
			values = append(values, 1)
			st.parked++
		}
		if e.laned {
			st.laned++
		}
		g.put(bBy, byKey(f.h.no, e.Seq), values[from:])
		st.flushed = e.Seq
	}
	st.indexed += uint64(len(f.entries))
}

// end writes what the ops have left in memory.
func (g *group) end() error {
	if !g.foreign {
		g.carry()
	}
	for h, w := range g.hooks {
		g.put(bHook, hookKey(h.no), encodeHook(h.deleted, w))
	}
	g.s.mu.Lock()
	for h, st := range g.stats {
		st.ended = h.mark()
	}
	g.s.mu.Unlock()
	stats := make([]byte, 0, 64*len(g.stats))
	for h, st := range g.stats {
		from := len(stats)
		stats = st.append(stats)
		g.put(bStat, hookKey(h.no), stats[from:])
	}
	g.endTally()
	return g.top.Put(stateKey, g.state.append(nil))
}

// committedLocked brings memory up to what was committed. It is called with Store.mu held, after the ops' done.
func (g *group) committedLocked() {
	s := g.s
	for _, f := range g.flushed {
		f.h.moved(len(f.entries))
		s.young -= len(f.entries)
	}
	for h, st := range g.stats {
		h.stat = *st
	}
	for h, w := range g.hooks {
		h.webhook = w
		s.placeLocked(h, g.now)
	}
	for _, t := range g.turns {
		t.h.wait(t.entry)
		s.board.Touch(&t.h.place, g.now)
		s.signal()
	}
	s.order = s.order[g.arrived:]
	s.state.tail, s.state.hooks = g.state.tail, g.state.hooks
	for _, f := range g.flushed {
		s.board.Touch(&f.h.place, g.now)
	}
}
