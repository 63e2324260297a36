// Package queue decides which waiting delivery is handed out next, and remembers who holds which: turns between
// webhooks, limits, leases. It is the part of Store.Claim that is the same wherever deliveries are kept. It does no
// I/O, starts nothing and knows no clock; its user guards a Board with one lock and passes the time in.
//
// Invariants:
//
//	I1 A hook is in the ring if it may have something to hand out now, in the heap if time will make it so, in
//	   neither if only a call (Touch) can. Place restores this after every change.
//	I2 held counts the claims of a hook; it exceeds the hook's cap only if the cap fell meanwhile.
//	I3 claims is ordered by the end of the lease, the earliest first.
package queue

import (
	"cmp"
	"container/heap"
	"math"
	"strconv"
	"strings"
	"time"
)

// Ref names a delivery: an event's place in the order of commits, and a webhook.
type Ref struct {
	Seq  uint64
	Hook uint32
}

// Compare orders deliveries by commit, and those of one event by webhook.
func (r Ref) Compare(o Ref) int {
	return cmp.Or(cmp.Compare(r.Seq, o.Seq), cmp.Compare(r.Hook, o.Hook))
}

// Entry is a delivery that waits. Due is in microseconds since 1970.
type Entry struct {
	Seq uint64
	Due int64
}

// before orders entries by due time, then by commit.
func (e Entry) before(o Entry) bool { return e.Due < o.Due || e.Due == o.Due && e.Seq < o.Seq }

// Answer says what a Source has.
type Answer uint8

// What a Source can have.
const (
	None Answer = iota // nothing waits
	Have               // the entry returned is due before all others
	Load               // something may wait, but the store must read it first
)

// Source holds what waits for one webhook.
type Source interface {
	// Head returns the entry that is due first.
	Head() (Entry, Answer)
	// Pop removes what Head returned.
	Pop()
	// Push takes back an entry that was popped.
	Push(Entry)
}

// Hook is one webhook's place on a Board. Its owner sets the exported fields and then calls Touch.
type Hook struct {
	No          uint32
	ID          string
	Open        bool  // neither paused, disabled nor deleted
	NotBefore   int64 // microseconds; nothing is handed out before
	MaxInFlight int   // 0: the request's
	Window      int   // 0: no window
	Source      Source

	held       int
	next, prev *Hook // in the ring; nil if it is not
	at         int64 // when it will have work; its key in the heap
	index      int   // in the heap; -1 if it is not
	call       uint64
	taken      int // in that call
}

// Held returns how many claims on the webhook's deliveries there are.
func (h *Hook) Held() int { return h.held }

// Claim is a delivery that somebody holds.
type Claim struct {
	Entry
	Hook     *Hook
	Token    string
	Held     int  // claims on the hook's deliveries when it was made, itself included
	Canceled bool // it ends when the claim does
	Settling bool // its outcome is being written: the lease no longer counts

	expires    int64
	aside      bool   // a reservation
	next, prev *Claim // in the order of expires
}

// Request is what Board.Claim needs of a postrider.ClaimRequest.
type Request struct {
	Max, MaxInFlight, Each int
	Limits                 map[string]int
	Lease                  time.Duration
}

// Board is the state of all claims of a store.
type Board struct {
	prefix   string // of tokens: tells this opening of the store from every other
	tokens   uint64
	text     strings.Builder // room for some
	digits   [13]byte        // of the one that is made: a uint64 in base 36
	room     []Claim         // for those to come
	calls    uint64
	fallback int // MaxInFlight of the last request

	hooks   []*Hook
	ring    *Hook // whose turn is next
	ringLen int
	timers  timers
	claims  map[Ref]*Claim
	first   *Claim // the lease that ends first
	last    *Claim
}

// slab is how many claims and tokens are made at a time. A claim that is held for long keeps its neighbours in memory.
const slab = 64

// New returns an empty board whose tokens begin with prefix.
func New(prefix string) *Board {
	return &Board{prefix: prefix, claims: map[Ref]*Claim{}}
}

// Add puts a hook on the board for good.
func (b *Board) Add(h *Hook, now int64) {
	h.index = -1
	b.hooks = append(b.hooks, h)
	b.Touch(h, now)
}

// Held returns how many claims there are.
func (b *Board) Held() int { return len(b.claims) }

// Find returns the claim on a delivery, nil if nobody holds it.
func (b *Board) Find(r Ref) *Claim { return b.claims[r] }

// Touch puts a hook where it belongs after anything about it has changed.
func (b *Board) Touch(h *Hook, now int64) {
	at, ok := b.ready(h)
	switch {
	case ok && at <= now:
		b.untime(h)
		b.link(h)
	case ok:
		b.unlink(h)
		b.time(h, at)
	default:
		b.unlink(h)
		b.untime(h)
	}
}

// ready returns when the hook has something to hand out; ok is false if time alone will not bring it about.
func (b *Board) ready(h *Hook) (at int64, ok bool) {
	if !h.Open || h.held >= b.limit(h) {
		return 0, false
	}
	e, answer := b.head(h)
	switch answer {
	case None:
		return 0, false
	case Load:
		return h.NotBefore, true
	}
	return max(e.Due, h.NotBefore), true
}

// head drops entries that somebody holds already: they come back when the claim ends.
func (b *Board) head(h *Hook) (Entry, Answer) {
	for {
		e, answer := h.Source.Head()
		if answer != Have || b.claims[Ref{e.Seq, h.No}] == nil {
			return e, answer
		}
		h.Source.Pop()
	}
}

// limit returns how many claims on the hook's deliveries there may be.
func (b *Board) limit(h *Hook) int {
	limit := math.MaxInt
	if h.MaxInFlight > 0 {
		limit = h.MaxInFlight
	} else if b.fallback > 0 {
		limit = b.fallback
	}
	if h.Window > 0 {
		limit = min(limit, h.Window)
	}
	return limit
}

// Claim hands out what is due at now. load lists hooks whose source must be filled: the caller does it, touches them
// and calls again for the rest. wait is as in postrider.Store, in microseconds; below 0: for ever.
func (b *Board) Claim(r Request, now int64) (claims []*Claim, load []*Hook, wait int64) {
	if r.MaxInFlight != b.fallback {
		b.fallback = r.MaxInFlight
		for _, h := range b.hooks {
			b.Touch(h, now)
		}
	}
	for len(b.timers) > 0 && b.timers[0].at <= now {
		b.Touch(b.timers[0], now)
	}
	b.calls++
	// idle counts the hooks looked at since the last one that gave something; after a whole round nobody is left.
	for idle := 0; len(claims) < r.Max && b.ring != nil && idle < b.ringLen; {
		h := b.ring
		b.ring = h.next
		if h.call != b.calls {
			h.call, h.taken = b.calls, 0
		}
		limit, named := r.Limits[h.ID]
		if !named && r.Each > 0 {
			limit, named = r.Each, true
		}
		if named && h.taken >= limit {
			idle++
			continue
		}
		e, answer := b.head(h)
		if answer == Load {
			load = append(load, h)
			b.unlink(h)
			continue
		}
		if answer == None || max(e.Due, h.NotBefore) > now {
			b.Touch(h, now)
			continue
		}
		h.Source.Pop()
		h.taken++
		claims = append(claims, b.Hold(h, e, r.Lease, now))
		idle = 0
	}
	return claims, load, b.wait(len(claims) >= r.Max, now)
}

func (b *Board) wait(full bool, now int64) int64 {
	if full {
		return 0
	}
	at := int64(math.MaxInt64)
	if len(b.timers) > 0 {
		at = b.timers[0].at
	}
	for c := b.first; c != nil; c = c.next {
		if !c.Settling {
			at = min(at, c.expires)
			break
		}
	}
	if at == math.MaxInt64 {
		return -1
	}
	return max(at-now, 0)
}

// Hold makes a claim on an entry, which its caller has taken from the hook's source or knows to be waiting there.
func (b *Board) Hold(h *Hook, e Entry, lease time.Duration, now int64) *Claim {
	h.held++
	c := b.add(h, e, now+lease.Microseconds())
	c.Held = h.held
	b.Touch(h, now)
	return c
}

// Reserve keeps an entry from being handed out until Drop, like Hold, but for the store itself: it has no lease, counts
// for no limit and is not among what is held of the hook.
func (b *Board) Reserve(h *Hook, e Entry, now int64) *Claim {
	c := b.add(h, e, math.MaxInt64)
	c.aside, c.Settling = true, true
	b.Touch(h, now)
	return c
}

func (b *Board) add(h *Hook, e Entry, expires int64) *Claim {
	c := b.claim()
	*c = Claim{Entry: e, Hook: h, Token: b.token(), expires: expires}
	b.claims[Ref{e.Seq, h.No}] = c
	// Leases are mostly of one length, so that the place is mostly at the end.
	after := b.last
	for after != nil && after.expires > c.expires {
		after = after.prev
	}
	c.prev = after
	if after == nil {
		c.next, b.first = b.first, c
	} else {
		c.next, after.next = after.next, c
	}
	if c.next == nil {
		b.last = c
	} else {
		c.next.prev = c
	}
	return c
}

// claim returns room for a claim. Some are made at a time.
func (b *Board) claim() *Claim {
	if len(b.room) == 0 {
		b.room = make([]Claim, slab)
	}
	c := &b.room[0]
	b.room = b.room[1:]
	return c
}

// token returns a token that was never there before. Those of one slab lie in one string.
func (b *Board) token() string {
	b.tokens++
	digits := strconv.AppendUint(b.digits[:0], b.tokens, 36)
	if b.text.Cap()-b.text.Len() < len(b.prefix)+len(digits) {
		b.text = strings.Builder{}
		b.text.Grow(slab * (len(b.prefix) + len(digits)))
	}
	from := b.text.Len()
	b.text.WriteString(b.prefix)
	b.text.Write(digits)
	return b.text.String()[from:]
}

// Drop ends a claim. If back is true its entry waits again.
func (b *Board) Drop(c *Claim, back bool, now int64) {
	delete(b.claims, Ref{c.Seq, c.Hook.No})
	if c.prev == nil {
		b.first = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		b.last = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.next, c.prev = nil, nil
	if !c.aside {
		c.Hook.held--
	}
	if back {
		c.Hook.Source.Push(c.Entry)
	}
	b.Touch(c.Hook, now)
}

// Expired returns the claims whose lease is over, for the caller to Drop.
func (b *Board) Expired(now int64) (over []*Claim) {
	for c := b.first; c != nil && c.expires <= now; c = c.next {
		if !c.Settling {
			over = append(over, c)
		}
	}
	return over
}

func (b *Board) link(h *Hook) {
	if h.next != nil {
		return
	}
	b.ringLen++
	if b.ring == nil {
		h.next, h.prev = h, h
		b.ring = h
		return
	}
	// Behind everybody else: just before the one whose turn it is.
	h.next, h.prev = b.ring, b.ring.prev
	h.prev.next, h.next.prev = h, h
}

func (b *Board) unlink(h *Hook) {
	if h.next == nil {
		return
	}
	b.ringLen--
	if h.next == h {
		b.ring = nil
	} else {
		h.prev.next, h.next.prev = h.next, h.prev
		if b.ring == h {
			b.ring = h.next
		}
	}
	h.next, h.prev = nil, nil
}

func (b *Board) time(h *Hook, at int64) {
	h.at = at
	if h.index < 0 {
		heap.Push(&b.timers, h)
	} else {
		heap.Fix(&b.timers, h.index)
	}
}

func (b *Board) untime(h *Hook) {
	if h.index >= 0 {
		heap.Remove(&b.timers, h.index)
	}
}

// timers is a heap of hooks by the time at which they will have work.
type timers []*Hook

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}

func (t *timers) Push(x any) {
	h := x.(*Hook)
	h.index = len(*t)
	*t = append(*t, h)
}

func (t *timers) Pop() any {
	old := *t
	h := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	h.index = -1
	return h
}

// Entries is a heap of waiting entries, the one due first at index 0.
type Entries []Entry

// Push adds an entry.
func (s *Entries) Push(e Entry) {
	*s = append(*s, e)
	for i := len(*s) - 1; i > 0; {
		up := (i - 1) / 2
		if !(*s)[i].before((*s)[up]) {
			break
		}
		(*s)[i], (*s)[up] = (*s)[up], (*s)[i]
		i = up
	}
}

// Pop removes the entry that is due first.
func (s *Entries) Pop() Entry {
	old := *s
	top, last := old[0], old[len(old)-1]
	old = old[:len(old)-1]
	*s = old
	if len(old) == 0 {
		return top
	}
	i := 0
	for {
		low := 2*i + 1
		if low >= len(old) {
			break
		}
		if low+1 < len(old) && old[low+1].before(old[low]) {
			low++
		}
		if !old[low].before(last) {
			break
		}
		old[i] = old[low]
		i = low
	}
	old[i] = last
	return top
}
