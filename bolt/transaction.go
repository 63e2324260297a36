package bolt

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

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
	foreign bool    // the caller's transaction: no webhook is touched, nothing is carried to by
	no      uint64  // of the store's own transactions; 0: the caller's
	touched []*hook // whose counters change
	hooks   map[*hook]*postrider.Webhook
	flushed []flush
	turns   map[queue.Ref]turn
	tally   tallying
	arena   arena
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

// put panics on an error: bbolt has one only for keys and values that we never make. It keeps the value, not the key,
// until the end of the transaction.
func (g *group) put(b bucket, key, value []byte) {
	g.writes++
	g.key = append(g.key[:0], key...)
	if err := g.bucket(b).Put(g.key, value); err != nil {
		panic(err)
	}
}

func (g *group) delete(b bucket, key []byte) {
	g.writes++
	g.key = append(g.key[:0], key...)
	if err := g.bucket(b).Delete(g.key); err != nil {
		panic(err)
	}
}

// stat returns the counters of a webhook for changing.
func (g *group) stat(h *hook) *stat {
	if h.drafted != g.no {
		h.draft, h.drafted = h.stat, g.no
		g.touched = append(g.touched, h)
	}
	return &h.draft
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
	for _, e := range f.entries {
		value := g.arena.room(byLen + 1)
		value = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(value, uint64(e.Due)), e.typ)
		if e.parked {
			value = append(value, 1)
			st.parked++
		}
		if e.laned {
			st.laned++
		}
		g.put(bBy, byKey(f.h.no, e.Seq), value)
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
	for _, h := range g.touched {
		h.draft.ended = h.mark()
	}
	g.s.mu.Unlock()
	for _, h := range g.touched {
		g.put(bStat, hookKey(h.no), h.draft.append(g.arena.room(statSize)))
	}
	g.endTally()
	return g.top.Put(stateKey, g.state.append(g.arena.room(stateSize)))
}

// committedLocked brings memory up to what was committed. It is called with Store.mu held, after the ops' done.
func (g *group) committedLocked() {
	s := g.s
	for _, f := range g.flushed {
		f.h.moved(len(f.entries))
		s.young -= len(f.entries)
	}
	for _, h := range g.touched {
		h.stat = h.draft
	}
	for h, w := range g.hooks {
		h.webhook = w
		s.placeLocked(h, g.now)
	}
	// In an order, so that the webhooks' turns do not depend on a map.
	for _, r := range slices.SortedFunc(maps.Keys(g.turns), queue.Ref.Compare) {
		t := g.turns[r]
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
