package bolt

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"weak"

	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
	"github.com/postrider/postrider/internal/spread"
)

type wakePointer = weak.Pointer[bbolt.Tx]

// Enqueue stores events and makes their deliveries.
func (s *Store) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	return s.newPost(items).send(ctx)
}

// send stores the letters.
func (p *post) send(ctx context.Context) ([]postrider.Receipt, error) {
	defer p.encoded()
	if p.empty() {
		return p.lookUp()
	}
	if err := p.s.submit(ctx, &op{apply: p.apply, done: p.arriveLocked, size: p.size}); err != nil {
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
	defer p.encoded()
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

// post is one Enqueue. Its letters are addressed before it is submitted. The values of many are made while apply begins,
// which first finds out what is new and puts that into key: neither may touch what encode does. Two wait for encoded:
// apply before it needs the values, and Enqueue before it returns, since the items are the caller's again then (G5).
type post struct {
	s       *Store
	letters []letter
	encoded func() // returns when all values are there, and helps to make them; it panics if encode did
	retuned uint64 // Store's, as of the letters' audiences
	size    int
	created int64
	keys    map[[2]string]bool // ID and project of the first known letters; see holds
	known   int
	runs    map[string][]target // of the letters that were checked, by event and run
}

// newPost copies the items into the form in which they are stored, with the webhooks that match as of now. With many
// it does so on all processors, and has not ended before encoded returns.
func (s *Store) newPost(items []postrider.Item) *post {
	p := &post{s: s, letters: make([]letter, len(items)), size: 64, encoded: func() {}}
	p.label(items)
	if len(items) <= spread.Part {
		p.address(items, p.letters)
		p.encode(items, p.letters)
	} else {
		spread.Over(len(items), func(from, to int) { p.address(items[from:to], p.letters[from:to]) })
		if !p.empty() {
			p.encoded = spread.Start(len(items), func(from, to int) { p.encode(items[from:to], p.letters[from:to]) })
		}
	}
	for i := range p.letters {
		p.size += 128
		if l := &p.letters[i]; l.room > 0 {
			p.size += l.valueSize(&items[i].Event)
		}
	}
	return p
}

// label gives the letters their keys, which share memory, and the webhooks that there are.
func (p *post) label(items []postrider.Item) {
	size := 0
	for i := range items {
		size += len(items[i].Event.ID) + 1 + len(items[i].Event.Project)
	}
	keys := make([]byte, 0, size)
	for i := range items {
		l, e := &p.letters[i], &items[i].Event
		l.project, l.id = e.Project, e.ID
		from := len(keys)
		keys = appendEventKey(keys, e.Project, e.ID)
		l.key = keys[from:len(keys):len(keys)]
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.retuned = p.s.retuned
	for i := range p.letters {
		p.letters[i].audience = p.s.audience[p.letters[i].project]
	}
}

// address copies what is not to be encoded, and finds the webhooks.
func (p *post) address(items []postrider.Item, letters []letter) {
	for i := range items {
		it, l := &items[i], &letters[i]
		l.replayOf = it.ReplayOf
		if it.Test {
			l.flags |= flagTest
		}
		switch {
		case it.ReplayOf != "":
			l.flags |= flagReplay
			l.run = runOf(it.Run)
		case !it.Test && it.Event.OrderKey != "":
			l.flags |= flagKey
			l.hash = keyHash(it.Event.OrderKey)
		}
		if it.To != nil {
			l.to = append([]string{}, it.To...)
		}
		l.eventType, l.typ = it.Event.Type, typeHash(it.Event.Type)
		l.match(l.eventType)
		if n := max(len(l.targets), len(l.to)); n > 0 && it.ReplayOf == "" {
			l.room = l.headSize(n)
		}
	}
}

// encode makes the values of the letters that somebody wants, with room for their heads.
func (p *post) encode(items []postrider.Item, letters []letter) {
	for i := range items {
		if letters[i].room > 0 {
			letters[i].encode(&items[i].Event)
		}
	}
}

// empty reports whether there is nothing to look up or store.
func (p *post) empty() bool {
	for i := range p.letters {
		if l := &p.letters[i]; l.to != nil || l.replayOf != "" || len(l.targets) > 0 {
			return false
		}
	}
	return true
}

// lookUp answers for events that no webhook wants: they are duplicates or nothing.
func (p *post) lookUp() ([]postrider.Receipt, error) {
	err := p.s.view(func(file *reader) error {
		for i := range p.letters {
			if l := &p.letters[i]; file.has(bKey, l.key) {
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

// apply checks every letter and then writes them.
func (p *post) apply(g *group) error {
	for i := range p.letters {
		if err := p.check(g, i); err != nil {
			return fmt.Errorf("items[%d]: %w", i, err)
		}
	}
	p.created = max(g.now, g.state.created)
	// A tree at a time is faster: what its puts go through stays in the processor's cache.
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
		if l.replayOf == "" {
			g.put(bKey, l.key, binary.BigEndian.AppendUint64(g.arena.room(seqSize), l.seq))
		} else {
			g.put(bAgain, againKey(l.project, l.id, l.seq), l.run)
		}
	}
	p.encoded()
	for i := range p.letters {
		l := &p.letters[i]
		if l.seq == 0 {
			continue
		}
		l.head(p.created)
		if l.lanes {
			g.line(l)
		}
		g.put(bLog, seqKey(l.seq), l.value)
		if l.flags&(flagTest|flagReplay) != 0 {
			r := record{flags: l.flags, origin: l.origin}
			for _, to := range l.targets {
				for _, k := range r.oddKeys(l.seq, to.hook()) {
					g.put(bOdd, k, nil)
				}
			}
		}
	}
	return nil
}

// check decides whether a letter is to be stored, and then sets its seq to other than 0.
func (p *post) check(g *group, i int) error {
	l := &p.letters[i]
	l.seq = 0
	if l.to != nil {
		l.targets, l.lanes = l.targets[:0], false
		for _, id := range l.to {
			to, err := p.s.member(id, l.project)
			if err != nil {
				return err
			}
			l.add(to)
		}
		// The order of their creation, which walks rely on.
		slices.SortFunc(l.targets, func(a, b target) int { return cmp.Compare(a.hook(), b.hook()) })
	}
	if l.replayOf != "" {
		known := g.get(bKey, l.key)
		if known == nil {
			return fmt.Errorf("event %q: %w", l.id, postrider.ErrNotFound)
		}
		return p.checkReplay(g, l, known)
	}
	if !g.newest(l.key) && (g.has(bKey, l.key) || p.holds(l, i)) {
		l.targets = nil
		l.flags |= duplicate
		return nil
	}
	if l.room > 0 && l.to == nil && p.retune(l) {
		l.match(l.eventType)
	}
	if len(l.targets) == 0 {
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

// holds reports whether one of the first n letters, which are not written yet, is of the same event and to be stored.
func (p *post) holds(l *letter, n int) bool {
	if n == 0 {
		return false
	}
	if p.keys == nil {
		p.keys = make(map[[2]string]bool, len(p.letters))
	}
	for ; p.known < n; p.known++ {
		if k := &p.letters[p.known]; k.seq != 0 && k.replayOf == "" {
			p.keys[[2]string{k.id, k.project}] = true
		}
	}
	return p.keys[[2]string{l.id, l.project}]
}

// duplicate marks a letter whose event is stored already. It is no flag of a log value.
const duplicate = 1 << 7

// retune gives a letter the webhooks that its project has now, and reports whether they have changed since.
func (p *post) retune(l *letter) bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	before := l.audience
	if p.retuned != p.s.retuned {
		l.audience = p.s.audience[l.project]
	}
	return l.audience != before
}

// member returns a webhook of the project.
func (s *Store) member(id, project string) (listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.byID[id]; h != nil && !h.deleted && h.webhook.Project == project {
		return listener{h.no, h.webhook}, nil
	}
	return listener{}, fmt.Errorf("webhook %q: %w", id, postrider.ErrNotFound)
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
		for _, to := range l.targets {
			s.arriveLocked(to, l.hash, queue.Entry{Seq: l.seq, Due: p.created}, l.typ, now, false)
		}
		c := l.cached
		c.flags, c.created, c.origin, c.left = l.flags, p.created, l.origin, len(l.targets)
		s.cache.add(l.seq, c)
	}
	s.signal()
}

// receipts returns what became of the letters. It makes the IDs outside of all locks.
func (p *post) receipts() ([]postrider.Receipt, error) {
	receipts := make([]postrider.Receipt, len(p.letters))
	n := 0
	for i := range p.letters {
		n += len(p.letters[i].targets)
	}
	ids := make([]string, 0, n)
	for i := range p.letters {
		l := &p.letters[i]
		receipts[i] = postrider.Receipt{EventID: l.id, Duplicate: l.flags&duplicate != 0}
		if l.seq == 0 {
			continue
		}
		from := len(ids)
		for _, to := range l.targets {
			ids = append(ids, p.s.mask.deliveryID(p.created, l.seq, to.hook()))
		}
		receipts[i].Deliveries = ids[from:len(ids):len(ids)]
	}
	return receipts, nil
}
