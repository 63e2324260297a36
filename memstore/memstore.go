// Package memstore is a postrider.Store in memory: for tests, and for programs that accept that what has not been
// delivered is gone when they end.
package memstore

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// Options are the settings of a Store. The zero value is fine.
type Options struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Store is a postrider.Store in memory. Its memory grows with everything it keeps; Prune gives it back.
type Store struct {
	now    func() time.Time
	wake   chan struct{} // buffered(1): something may have become due
	closed chan struct{}
	write  chan struct{} // a token: who holds it may write; a Tx does for its whole life

	mu      sync.Mutex // guards everything below
	board   *queue.Board
	shut    bool
	latest  int64 // the last time that was handed out as a creation time
	seq     uint64
	hooks   []*hook // in the order of creation; hooks[i].place.No is i
	byID    map[string]*hook
	byName  map[string]*hook
	events  map[string]*event // by project and ID
	log     []*delivery       // in the order of commits; nil where pruned
	byDelID map[string]*delivery
	byEvent map[string][]*delivery // by the event's ID, in the order of commits
	ended   []*delivery            // in the order of their ends
}

// hook is a webhook and what is kept of it.
type hook struct {
	postrider.Webhook
	place   queue.Hook
	deleted bool
	waiting queue.Entries
	log     []*delivery // in the order of commits
	open    map[uint64]*delivery
	lanes   map[string][]*delivery // in the order of commits; the first is open and not parked, of the others some may have ended
	stats   postrider.Stats
	tally   tally
}

type event struct {
	postrider.Event
	deliveries int             // that are kept
	runs       map[string]bool // runKey of what was replayed
}

// delivery is guarded by Store.mu. Attempts are only appended, and never changed.
type delivery struct {
	postrider.Delivery // without what view fills in
	seq                uint64
	due                int64
	hook               *hook
	event              *event
	lane               string // "": none
	run                string // runKey; "": none
	parked             bool   // others of its lane come first
	attempts           []postrider.Attempt
	pruned             bool
}

// New returns an empty store.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{
		now:     o.Now,
		wake:    make(chan struct{}, 1),
		closed:  make(chan struct{}),
		write:   make(chan struct{}, 1),
		board:   queue.New(uuid.NewString() + "-"),
		byID:    map[string]*hook{},
		byName:  map[string]*hook{},
		events:  map[string]*event{},
		byDelID: map[string]*delivery{},
		byEvent: map[string][]*delivery{},
	}
}

var _ postrider.Store = (*Store)(nil)

// Close ends the store's use. What it kept goes with it.
func (s *Store) Close() error {
	s.write <- struct{}{}
	defer func() { <-s.write }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shut {
		s.shut = true
		close(s.closed)
	}
	return nil
}

// Wait returns when something may have become due.
func (s *Store) Wait(ctx context.Context) error {
	select {
	case <-s.closed: // before a wake-up that is left over
		return postrider.ErrClosed
	default:
	}
	select {
	case <-s.closed:
		return postrider.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	case <-s.wake:
		return nil
	}
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lock takes the state for reading, or for a write that no transaction can be in the way of.
func (s *Store) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.shut {
		s.mu.Unlock()
		return postrider.ErrClosed
	}
	return nil
}

// lockWrite waits for transactions to end and takes the state.
func (s *Store) lockWrite(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.write <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.lock(ctx); err != nil {
		<-s.write
		return err
	}
	return nil
}

func (s *Store) unlockWrite() {
	s.mu.Unlock()
	<-s.write
}

func (s *Store) micros() int64 { return s.now().UnixMicro() }

func instant(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// clone returns a copy of the webhook that shares nothing, with times as the codec keeps them.
func clone(w postrider.Webhook) postrider.Webhook {
	b, _ := w.AppendBinary(nil)
	var c postrider.Webhook
	if err := c.UnmarshalBinary(b); err != nil {
		panic(err) // what was just encoded decodes
	}
	return c
}

func nameKey(w *postrider.Webhook) string { return key(w.Project, w.Name) }
