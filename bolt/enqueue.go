package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"weak"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

type wakePointer = weak.Pointer[bbolt.Tx]

// audience is the webhooks of a project, in the order of their creation. It is replaced when one changes or goes, and
// appended to when one is made, so that whoever has one may read it without a lock.
type audience struct {
	hooks []listener
}

type listener struct {
	no      uint32
	webhook *postrider.Webhook
}

// listenLocked adds a webhook to its project's audience.
func (s *Store) listenLocked(h *hook) {
	old := s.audience[h.webhook.Project]
	if old == nil {
		old = &audience{}
	}
	s.audience[h.webhook.Project] = &audience{append(old.hooks, listener{h.no, h.webhook})}
}

// relistenLocked replaces a webhook in its project's audience, or takes it out if it is deleted.
func (s *Store) relistenLocked(h *hook) {
	project := h.webhook.Project
	list := slices.Clone(s.audience[project].hooks)
	i := slices.IndexFunc(list, func(l listener) bool { return l.no == h.no })
	switch {
	case i < 0:
	case h.deleted:
		list = slices.Delete(list, i, i+1)
	default:
		list[i].webhook = h.webhook
	}
	s.audience[project] = &audience{list}
}

// letter is an item on its way into the file.
type letter struct {
	project  string
	id       string
	event    postrider.Event // with Payload in value; for the cache
	audience *audience       // what hooks was matched against; nil if To said so
	hooks    []uint32
	to       []string
	replayOf string
	flags    byte
	typ      uint32
	body     []byte // the event's record
	value    []byte
	kept     int // bytes of memory that event refers to

	key    []byte
	seq    uint64 // 0: not stored
	origin []byte
}

// Enqueue stores events and makes their deliveries.
func (s *Store) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	p := s.newPost(items)
	if p.empty() {
		return p.lookUp()
	}
	if err := s.submit(ctx, &op{apply: p.apply, done: p.arriveLocked, size: p.size}); err != nil {
		return nil, err
	}
	return p.receipts()
}

// Tx returns an Enqueuer within the caller's write transaction of the store's database: what it stores commits or
// rolls back with the transaction, and the dispatcher wakes by itself. While the transaction is open every other
// method that writes waits for it, those of the dispatcher too: keep it short, and do not call them from within it.
func (s *Store) Tx(tx *bbolt.Tx) postrider.Enqueuer { return enqueuer{s, tx} }

type enqueuer struct {
	s  *Store
	tx *bbolt.Tx
}

// Enqueue stores events in the caller's transaction.
func (e enqueuer) Enqueue(ctx context.Context, items []postrider.Item) (receipts []postrider.Receipt, err error) {
	s := e.s
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	if e.tx.DB() != s.db || !e.tx.Writable() {
		return nil, fmt.Errorf("%w: not an open write transaction of the store's database", postrider.ErrStore)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic in a write: %v", postrider.ErrStore, p)
		}
	}()
	p := s.newPost(items)
	g := &group{s: s, tx: e.tx, foreign: true}
	if err := g.begin(); err != nil {
		return nil, err
	}
	if err := p.apply(g); err != nil {
		return nil, err
	}
	if g.writes > 0 {
		if err := g.end(); err != nil {
			return nil, err
		}
		s.wakeAfter(e.tx)
	}
	return p.receipts()
}

// wakeAfter makes the transaction wake us when it commits, once however often it is called for it. The handler runs
// after the transaction has let go of the file, so that other commits may come before it: it only says that there is
// something to look for. A weak pointer tells transactions apart also when memory is used again.
func (s *Store) wakeAfter(tx *bbolt.Tx) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := weak.Make(tx); s.fullTx != p {
		s.fullTx = p
		tx.OnCommit(func() {
			s.foreign.Store(true)
			s.signal()
		})
	}
}

// post is one Enqueue.
type post struct {
	s       *Store
	letters []letter
	size    int
	created int64
	keys    map[string]bool // of the first known letters; see holds
	known   int
}

// newPost copies the items into the form in which they are stored, with the webhooks that match as of now.
func (s *Store) newPost(items []postrider.Item) *post {
	p := &post{s: s, letters: make([]letter, len(items)), size: 64}
	for i := range items {
		it := &items[i]
		l := &p.letters[i]
		l.project, l.id, l.replayOf = it.Event.Project, it.Event.ID, it.ReplayOf
		if it.Test {
			l.flags |= flagTest
		}
		if it.ReplayOf != "" {
			l.flags |= flagReplay
		}
		if it.To != nil {
			l.to = append([]string{}, it.To...)
		}
		l.typ = typeHash(it.Event.Type)
		p.match(l, &it.Event)
		if it.ReplayOf == "" && (len(l.hooks) > 0 || len(l.to) > 0) {
			l.encode(&it.Event)
		}
		p.size += len(l.value) + 128
	}
	return p
}

// empty reports whether there is nothing to look up or store.
func (p *post) empty() bool {
	for i := range p.letters {
		if l := &p.letters[i]; l.to != nil || l.replayOf != "" || len(l.hooks) > 0 {
			return false
		}
	}
	return true
}

// lookUp answers for events that no webhook wants: they are duplicates or nothing.
func (p *post) lookUp() ([]postrider.Receipt, error) {
	err := p.s.view(func(file *reader) error {
		for i := range p.letters {
			if l := &p.letters[i]; file.has(bKey, eventKey(l.project, l.id)) {
				l.flags |= duplicate
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p.receipts()
}

// match finds the webhooks that a letter goes to, unless its To says so.
func (p *post) match(l *letter, e *postrider.Event) {
	if l.to != nil {
		return
	}
	p.s.mu.Lock()
	l.audience = p.s.audience[e.Project]
	p.s.mu.Unlock()
	l.hooks = l.hooks[:0]
	if l.audience == nil {
		return
	}
	for _, to := range l.audience.hooks {
		if to.webhook.Matches(e.Type) {
			l.hooks = append(l.hooks, to.no)
		}
	}
}

// encode makes the log value, with room for the creation time.
func (l *letter) encode(e *postrider.Event) {
	n := max(len(l.hooks), len(l.to))
	v := make([]byte, 0, 96+4*n+len(e.Payload)+len(e.ID)+len(e.Project)+len(e.Type)+len(e.ContentType))
	v = l.head(v)
	head := len(v)
	v, _ = e.AppendBinary(v) // never fails
	l.value, l.body = v, v[head:]
	l.event = *e
	l.event.Payload = v[len(v)-len(e.Payload):]
	if len(e.Payload) == 0 {
		l.event.Payload = nil
	}
	l.event.Metadata = maps.Clone(e.Metadata)
	l.kept = cap(v)
	l.event.Time = instantOf(e.Time)
}

// head appends what comes before the event in a log value.
func (l *letter) head(v []byte) []byte {
	v = append(v, l.flags, 0, 0, 0, 0, 0, 0, 0, 0)
	v = binary.BigEndian.AppendUint32(v, l.typ)
	v = binary.AppendUvarint(v, uint64(len(l.hooks)))
	for _, no := range l.hooks {
		v = binary.BigEndian.AppendUint32(v, no)
	}
	return append(v, l.origin...)
}

// apply checks every letter and then writes them.
func (p *post) apply(g *group) error {
	for i := range p.letters {
		if err := p.check(g, i); err != nil {
			return fmt.Errorf("items[%d]: %w", i, err)
		}
	}
	p.created = max(g.now, g.state.created)
	for i := range p.letters {
		l := &p.letters[i]
		if l.seq == 0 {
			continue
		}
		if g.state.seq == maxSeq {
			return fmt.Errorf("%w: %d events were stored, which is all that an ID can hold", postrider.ErrStore, uint64(maxSeq))
		}
		g.state.seq++
		l.seq = g.state.seq
		g.state.created = p.created
		binary.BigEndian.PutUint64(l.value[createdAt:], uint64(p.created))
		g.put(bLog, seqKey(l.seq), l.value)
		if l.flags != 0 {
			r := record{flags: l.flags, origin: l.origin}
			for _, no := range l.hooks {
				for _, k := range r.oddKeys(l.seq, no) {
					g.put(bOdd, k, nil)
				}
			}
		}
		if l.replayOf == "" {
			g.put(bKey, l.key, seqKey(l.seq))
		} else {
			g.put(bAgain, againKey(l.project, l.id, l.seq), nil)
		}
	}
	return nil
}

// check decides whether a letter is to be stored, and then sets its seq to other than 0 and completes its value.
func (p *post) check(g *group, i int) error {
	l := &p.letters[i]
	l.seq = 0
	if l.to != nil {
		l.hooks = l.hooks[:0]
		for _, id := range l.to {
			no, err := p.s.member(id, l.project)
			if err != nil {
				return err
			}
			l.hooks = append(l.hooks, no)
		}
		slices.Sort(l.hooks) // the order of their creation, which walks rely on
	}
	l.key = eventKey(l.project, l.id)
	if l.replayOf != "" {
		known := g.get(bKey, l.key)
		if known == nil {
			return fmt.Errorf("event %q: %w", l.id, postrider.ErrNotFound)
		}
		return p.checkReplay(g, l, known)
	}
	if !g.newest(l.key) && (g.has(bKey, l.key) || p.holds(l.key, i)) {
		l.hooks = nil
		l.flags |= duplicate
		return nil
	}
	if l.body != nil && (l.to != nil || p.rematch(l)) {
		l.reencode()
	}
	if len(l.hooks) == 0 {
		return nil
	}
	if g.newest(l.key) {
		g.last = l.key
	}
	l.seq = 1
	return nil
}

// newest reports whether an event's key is above all that are stored, and so certainly new: with IDs that ascend this
// spares the search.
func (g *group) newest(key []byte) bool {
	if g.last == nil {
		last, _ := g.bucket(bKey).Cursor().Last()
		g.last = append([]byte{}, last...)
	}
	return bytes.Compare(key, g.last) > 0
}

// holds reports whether one of the first n letters, which are not written yet, has this key and is to be stored.
func (p *post) holds(key []byte, n int) bool {
	if n == 0 {
		return false
	}
	if p.keys == nil {
		p.keys = make(map[string]bool, len(p.letters))
	}
	for ; p.known < n; p.known++ {
		if l := &p.letters[p.known]; l.seq != 0 && l.replayOf == "" {
			p.keys[string(l.key)] = true
		}
	}
	return p.keys[string(key)]
}

// duplicate marks a letter whose event is stored already. It is no flag of a log value.
const duplicate = 1 << 7

// checkReplay makes the value of a replay from the record of the event. The record is copied: the event may be pruned
// before its replay has ended.
func (p *post) checkReplay(g *group, l *letter, known []byte) error {
	r, err := decodeRecord(g.get(bLog, known))
	if err != nil {
		return err
	}
	if err := l.event.UnmarshalBinary(r.event); err != nil {
		return err
	}
	l.kept = len(r.event)
	origin, err := uuid.Parse(l.replayOf)
	if err != nil {
		return fmt.Errorf("delivery %q: %w", l.replayOf, postrider.ErrNotFound)
	}
	if l.to == nil {
		p.match(l, &l.event)
	}
	if len(l.hooks) == 0 {
		return nil
	}
	l.origin, l.typ = origin[:], r.typ
	l.value = append(l.head(nil), r.event...)
	l.seq = 1
	return nil
}

// rematch matches again if webhooks have changed since, and reports whether it did.
func (p *post) rematch(l *letter) bool {
	p.s.mu.Lock()
	same := l.audience == p.s.audience[l.project]
	p.s.mu.Unlock()
	if same {
		return false
	}
	p.match(l, &l.event)
	return true
}

// reencode makes the value anew for other webhooks.
func (l *letter) reencode() {
	l.value = append(l.head(nil), l.body...)
}

// member returns the number of a webhook of the project.
func (s *Store) member(id, project string) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.byID[id]; h != nil && !h.deleted && h.webhook.Project == project {
		return h.no, nil
	}
	return 0, fmt.Errorf("webhook %q: %w", id, postrider.ErrNotFound)
}

// arriveLocked brings the deliveries into memory, unless Claim has read them from the file already.
func (p *post) arriveLocked() {
	s := p.s
	now := s.micros()
	for i := range p.letters {
		l := &p.letters[i]
		if l.seq <= s.state.seq {
			continue
		}
		s.state.seq, s.state.created = l.seq, p.created
		for _, no := range l.hooks {
			s.arriveLocked(s.hooks[no-1], arrived{queue.Entry{Seq: l.seq, Due: p.created}, l.typ}, now, false)
		}
		s.cache.add(l.seq, &cached{l.event, l.flags, p.created, l.origin, len(l.hooks), l.kept + cachedSize})
	}
	s.signal()
}

// receipts returns what became of the letters. It makes the IDs outside of all locks.
func (p *post) receipts() ([]postrider.Receipt, error) {
	receipts := make([]postrider.Receipt, len(p.letters))
	for i := range p.letters {
		l := &p.letters[i]
		receipts[i] = postrider.Receipt{EventID: l.id, Duplicate: l.flags&duplicate != 0}
		if l.seq == 0 {
			continue
		}
		ids := make([]string, len(l.hooks))
		for j, no := range l.hooks {
			ids[j] = p.s.mask.deliveryID(p.created, l.seq, no)
		}
		receipts[i].Deliveries = ids
	}
	return receipts, nil
}

// cache keeps the freshest events with their payloads until their deliveries have been claimed, so that a claim need
// not read them back. What does not fit is read from the file.
type cache struct {
	events map[uint64]*cached
	queue  []uint64 // in the order of arrival
	size   int
}

type cached struct {
	event   postrider.Event
	flags   byte
	created int64
	origin  []byte
	left    int // deliveries that were not claimed yet
	size    int
}

const maxCache = 8 << 20 // bytes

func (c *cache) add(seq uint64, e *cached) {
	c.events[seq] = e
	c.queue = append(c.queue, seq)
	c.size += e.size
	for c.size > maxCache || len(c.queue) > 2*len(c.events)+64 {
		c.remove(c.queue[0])
		c.queue = c.queue[1:]
	}
}

// cachedSize is about what an event takes beside its record.
const cachedSize = 512

func (c *cache) remove(seq uint64) {
	if e := c.events[seq]; e != nil {
		c.size -= e.size
		delete(c.events, seq)
	}
}

// take returns an event for one of its claims.
func (c *cache) take(seq uint64) *cached {
	e := c.events[seq]
	if e != nil {
		if e.left--; e.left <= 0 {
			c.remove(seq)
		}
	}
	return e
}
