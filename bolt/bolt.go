// Package bolt is a postrider.Store on one bbolt file: for a single process, with nothing else to install.
//
// The file is locked by the process that has it open, so that a claim needs no write: claims live in memory, and after
// a crash everything that was in flight is due again, its attempt uncounted. Every call that writes waits for a commit
// that is synced to disk, and shares it with all calls that arrive meanwhile.
//
// The file never shrinks: what Prune frees is used again, and Compact writes a smaller one. Backup copies it in use.
//
// Use a local disk: file locks and syncs of network file systems do not hold what this package builds on.
package bolt

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// Options are the settings of a Store. The zero value is right for production.
type Options struct {
	// Now is the clock; time.Now if nil. For tests.
	Now func() time.Time

	// Logger is told when an Open takes long, because a large file was not closed; slog.Default() if nil.
	Logger *slog.Logger
}

// Store is a postrider.Store on a bbolt file.
type Store struct {
	db   *bbolt.DB
	own  bool // the file is ours, to be closed by Close
	now  func() time.Time
	mask mask

	life    sync.RWMutex // held for reading by every call, for writing by Close
	shut    bool         // guarded by life
	closed  chan struct{}
	wake    chan struct{} // buffered(1): something may have become due
	foreign atomic.Bool   // a caller's transaction was committed since memory was last brought up to the file
	commits committer

	mu       sync.Mutex // guards everything below; no I/O is done while it is held
	board    *queue.Board
	state    state
	hooks    []*hook            // in the order of creation, deleted ones too; hooks[i].no is i+1
	all      *hook              // the whole store: number 0, nothing but a stat
	projects map[string][]*hook // of a project; likewise
	byID     map[string]*hook
	byName   map[string]*hook
	audience map[string]*audience // by project
	retuned  uint64               // how often one was replaced
	young    int                  // entries of all hooks' young
	order    []arrival            // of young entries, oldest first; what is in by already is passed over
	cache    cache
	changeAt map[string]resume // by key: where Changes that examined all they may go on
	pruneAt  []byte            // key of done at which Prune goes on
	fullTx   wakePointer       // the caller's transaction that will wake us
}

// arrival is a delivery whose entry may not be in by yet.
type arrival struct {
	seq uint64
	h   *hook
}

var _ postrider.Store = (*Store)(nil)

// New returns a store inside the caller's database, in one top-level bucket named postrider. Closing the store leaves
// the database open. For speed open it with bbolt's FreelistMapType and NoFreelistSync, of which the price is that bbolt
// reads the whole file when it is opened; for durability never with NoSync. One Store per database: a second one is not
// noticed, and would send things twice.
func New(db *bbolt.DB, o Options) (*Store, error) {
	return open(db, o, false)
}

func open(db *bbolt.DB, o Options, own bool) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	var prefix [8]byte
	_, _ = rand.Read(prefix[:]) // never fails
	s := &Store{
		db: db, own: own, now: o.Now,
		closed:   make(chan struct{}),
		wake:     make(chan struct{}, 1),
		board:    queue.New(hex.EncodeToString(prefix[:]) + "-"),
		projects: map[string][]*hook{},
		byID:     map[string]*hook{},
		byName:   map[string]*hook{},
		audience: map[string]*audience{},
		all:      &hook{},
	}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("bolt: %s: %w", db.Path(), err)
	}
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("bolt: %s: %w", db.Path(), err)
	}
	return s, nil
}

// prepare makes what is missing of the buckets and checks the format.
func (s *Store) prepare() error {
	ready := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		top := tx.Bucket(rootName)
		if top == nil {
			return nil
		}
		fixed, err := fixedOf(top)
		if err != nil {
			return err
		}
		s.mask.high = binary.BigEndian.Uint16(fixed[4:]) & 0xfff
		s.mask.low = binary.BigEndian.Uint64(fixed[6:]) & (1<<62 - 1)
		ready = true
		return nil
	})
	if err != nil || ready {
		return err
	}
	err = s.db.Update(create)
	if err != nil {
		return classify(err)
	}
	return s.prepare()
}

// fixedOf returns the value of fixed, if the bucket is of a store with our format.
func fixedOf(top *bbolt.Bucket) ([]byte, error) {
	fixed := top.Get(fixedKey)
	if len(fixed) != 14 {
		return nil, fmt.Errorf("%w: the bucket %q is not ours", postrider.ErrStore, rootName)
	}
	if version := binary.BigEndian.Uint32(fixed); version != Format {
		return nil, fmt.Errorf("%w: the file has format %d, this version reads %d", postrider.ErrStore, version, Format)
	}
	for _, name := range nameOf {
		if top.Bucket(name) == nil {
			return nil, fmt.Errorf("%w: the file lacks the bucket %q: another version of this package made it", postrider.ErrStore, name)
		}
	}
	return fixed, nil
}

// create makes an empty store in a database.
func create(tx *bbolt.Tx) error {
	top, err := tx.CreateBucket(rootName)
	if err != nil {
		return err
	}
	for _, name := range nameOf {
		if _, err := top.CreateBucket(name); err != nil {
			return err
		}
	}
	fixed := binary.BigEndian.AppendUint32(nil, Format)
	fixed = append(fixed, make([]byte, 10)...)
	_, _ = rand.Read(fixed[4:]) // never fails
	if err := top.Put(fixedKey, fixed); err != nil {
		return err
	}
	return top.Put(stateKey, state{tail: 1}.append(nil))
}

// recover reads what a store keeps in memory, and ends what was canceled while it was claimed: those claims are gone.
func (s *Store) recover() error {
	var canceled [][]byte
	err := s.db.View(func(tx *bbolt.Tx) error {
		top := tx.Bucket(rootName)
		var err error
		if s.state, err = decodeState(top.Get(stateKey)); err != nil {
			return err
		}
		stats := top.Bucket(nameOf[bStat])
		if v := stats.Get(hookKey(s.all.no)); v != nil {
			if s.all.stat, err = decodeStat(v); err != nil {
				return err
			}
		}
		if err := top.Bucket(nameOf[bHook]).ForEach(func(k, v []byte) error {
			return s.addHook(binary.BigEndian.Uint32(k), v, stats.Get(k))
		}); err != nil {
			return err
		}
		if err := s.readLog(top, s.state.tail-1, s.state.seq, true); err != nil {
			return err
		}
		return top.Bucket(nameOf[bCancel]).ForEach(func(k, _ []byte) error {
			canceled = append(canceled, append([]byte(nil), k...))
			return nil
		})
	})
	if err != nil {
		return err
	}
	for project := range s.audience {
		s.indexLocked(project)
	}
	now := s.micros()
	for _, h := range s.hooks {
		h.fresh.next = h.stat.ended + 1
		h.fresh.behind = h.stat.flushed > h.stat.ended
		h.later.more = h.stat.count[postrider.StatusInProcess] > 0 || h.laned() > 0
		s.board.Add(&h.place, now)
		s.placeLocked(h, now)
	}
	if len(canceled) > 0 {
		return s.submit(context.Background(), &op{alone: true, apply: func(g *group) error { return g.endCanceled(canceled) }})
	}
	return nil
}

// addHook puts a webhook into memory.
func (s *Store) addHook(no uint32, v, statValue []byte) error {
	deleted, w, err := decodeHook(v)
	if err != nil {
		return err
	}
	h := &hook{no: no, webhook: w, deleted: deleted}
	if statValue != nil {
		if h.stat, err = decodeStat(statValue); err != nil {
			return err
		}
	}
	if int(no) != len(s.hooks)+1 {
		return errRecord
	}
	s.enrollLocked(h)
	return nil
}

// enrollLocked adds a webhook to the maps, not to the board.
func (s *Store) enrollLocked(h *hook) {
	h.place = queue.Hook{No: h.no, ID: h.webhook.ID, Source: h}
	s.hooks = append(s.hooks, h)
	s.projects[h.webhook.Project] = append(s.projects[h.webhook.Project], h)
	s.byID[h.webhook.ID] = h
	if !h.deleted {
		s.byName[nameKey(h.webhook)] = h
		s.listenLocked(h)
	}
}

// catchUp brings memory up to what the caller's transactions have committed, in the order of commits. A group's
// transaction does so before anything else, so that its own events come after.
func (s *Store) catchUp(tx *bbolt.Tx) error {
	top := tx.Bucket(rootName)
	st, err := decodeState(top.Get(stateKey))
	if err != nil {
		return err
	}
	s.mu.Lock()
	known := s.state.seq
	s.mu.Unlock()
	if st.seq == known {
		return nil
	}
	return s.readLog(top, known, st.seq, false)
}

// readLog adds the deliveries of the events above from, up to to, to young, unless they are in by already. It reads in
// parts, so that no lock is held while it reads.
func (s *Store) readLog(top *bbolt.Bucket, from, to uint64, opening bool) error {
	type row struct {
		seq     uint64
		created int64
		typ     uint32
		targets []target
		hash    uint64
	}
	var part []row
	add := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		now := s.micros()
		for _, r := range part {
			if !opening {
				if r.seq <= s.state.seq {
					continue
				}
				s.state.seq, s.state.created = r.seq, max(s.state.created, r.created)
			}
			for _, to := range r.targets {
				s.arriveLocked(to, r.hash, queue.Entry{Seq: r.seq, Due: r.created}, r.typ, now, opening)
			}
		}
		part = part[:0]
	}
	s.mu.Lock()
	known := len(s.hooks)
	s.mu.Unlock()
	c := top.Bucket(nameOf[bLog]).Cursor()
	for k, v := c.Seek(seqKey(from + 1)); k != nil; k, v = c.Next() {
		seq := binary.BigEndian.Uint64(k)
		if seq > to {
			break
		}
		r, err := decodeRecord(v)
		if err != nil {
			return err
		}
		targets := make([]target, r.len())
		for i := range targets {
			targets[i] = r.target(i)
			if no := targets[i].hook(); no == 0 || int(no) > known {
				return errRecord
			}
		}
		if part = append(part, row{seq, r.created, r.typ, targets, r.hash}); len(part) == 1000 {
			add()
		}
	}
	add()
	return nil
}

// arriveLocked puts a new delivery into memory. hash is that of its event's order key.
func (s *Store) arriveLocked(to target, hash uint64, e queue.Entry, typ uint32, now int64, opening bool) {
	h := s.hooks[to.hook()-1]
	if e.Seq <= h.stat.flushed {
		return
	}
	l, laned := to.lane(hash)
	h.young = append(h.young, arrived{e, typ, laned, l.parked})
	if laned {
		h.countLanes(h.young[len(h.young)-1:], 1)
	}
	s.young++
	s.order = append(s.order, arrival{e.Seq, h})
	if !opening {
		s.board.Touch(&h.place, now)
	}
}

func (s *Store) micros() int64 { return s.now().UnixMicro() }

// placeLocked tells the board what is true of a webhook.
func (s *Store) placeLocked(h *hook, now int64) {
	w := h.webhook
	h.place.Open = w.State == postrider.StateEnabled && !h.deleted
	h.place.NotBefore = math.MinInt64
	if !w.NotBefore.IsZero() {
		h.place.NotBefore = w.NotBefore.UnixMicro()
	}
	h.place.MaxInFlight, h.place.Window = w.MaxInFlight, w.Window
	s.board.Touch(&h.place, now)
	s.signal()
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Wait returns when something may have become due for another reason than time passing.
func (s *Store) Wait(ctx context.Context) error {
	select {
	case <-s.closed:
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

// enter begins a call; unless it returns an error the caller must call s.life.RUnlock.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Not RLock: it would wait behind a Close that waits for a call that waits for the caller's transaction.
	if !s.life.TryRLock() {
		return postrider.ErrClosed
	}
	if s.shut {
		s.life.RUnlock()
		return postrider.ErrClosed
	}
	return nil
}

// view runs f in a read transaction. f must not do anything slow: while it runs no page is used again.
func (s *Store) view(f func(*reader) error) error {
	err := s.db.View(func(tx *bbolt.Tx) error { return f(&reader{top: tx.Bucket(rootName)}) })
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return postrider.ErrClosed
	}
	return err
}

// Close ends the store's use, after the calls that are under way. A file that Open opened is closed too, with its list
// of free pages written, which makes the next Open short. A second call returns nil.
func (s *Store) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.shut {
		return nil
	}
	s.shut = true
	close(s.closed)
	if !s.own {
		return nil
	}
	s.commits.mu.Lock()
	healthy := s.commits.err == nil && s.commits.full.IsZero()
	s.commits.mu.Unlock()
	return closeFile(s.db, healthy)
}

// encodeHook and decodeHook are a value of hook: deleted1 webhook.
func encodeHook(deleted bool, w *postrider.Webhook) []byte {
	b := []byte{0}
	if deleted {
		b[0] = 1
	}
	b, _ = w.AppendBinary(b) // never fails
	return b
}

func decodeHook(v []byte) (deleted bool, w *postrider.Webhook, err error) {
	if len(v) == 0 {
		return false, nil, errRecord
	}
	w = new(postrider.Webhook)
	if err := w.UnmarshalBinary(v[1:]); err != nil {
		return false, nil, fmt.Errorf("%w: %w", postrider.ErrStore, err)
	}
	return v[0] == 1, w, nil
}
