package bolt

import (
	"context"
	"encoding/binary"
	"maps"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// maxStale is how many entries one Claim passes over whose delivery has ended meanwhile, or was stored as parked.
const maxStale = 4096

// Claim hands out what is due. It is no write: claims live in memory. The board picks under the lock, then the events
// are read without it, and what turns out to have ended meanwhile is replaced.
func (s *Store) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	if err := r.Validate(); err != nil {
		return nil, 0, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.life.RUnlock()
	if err := s.writable(); err != nil {
		return nil, 0, err
	}
	if err := s.refresh(ctx); err != nil {
		return nil, 0, err
	}
	if r.Only != "" {
		return s.claimOne(r)
	}
	request := queue.Request{Max: r.Max, MaxInFlight: r.MaxInFlight, Each: r.Each, Limits: r.Limits, Lease: r.Lease}
	var claims []postrider.Claim
	for stale := 0; ; {
		s.mu.Lock()
		held, load, wait := s.board.Claim(request, s.micros())
		picks := s.picksLocked(held)
		s.mu.Unlock()
		fresh, err := s.collect(picks)
		if err != nil {
			s.giveBack(load)
			return nil, 0, s.abandon(claims, err)
		}
		if claims == nil {
			claims = fresh
		} else {
			claims = append(claims, fresh...)
		}
		stale += len(picks) - len(fresh)
		passed, err := s.load(load)
		if err != nil {
			return nil, 0, s.abandon(claims, err)
		}
		stale += passed
		request.Max = r.Max - len(claims)
		again := len(load) > 0 || len(fresh) < len(picks)
		switch {
		case request.Max == 0, again && stale > maxStale:
			return claims, 0, nil
		case again:
			request.Limits = rest(&r, claims)
		case wait < 0:
			return claims, postrider.Forever, nil
		default:
			return claims, time.Duration(wait) * time.Microsecond, nil
		}
	}
}

// rest returns what the limits of a request leave after some claims: the board counts a call of its own.
func rest(r *postrider.ClaimRequest, claims []postrider.Claim) map[string]int {
	if len(claims) == 0 || r.Each == 0 && len(r.Limits) == 0 {
		return r.Limits
	}
	limits := make(map[string]int, len(r.Limits)+1)
	maps.Copy(limits, r.Limits)
	for i := range claims {
		id := claims[i].Webhook.ID
		left, named := limits[id]
		if !named {
			left, named = r.Each, r.Each > 0
		}
		if named {
			limits[id] = left - 1
		}
	}
	return limits
}

// writable returns the error after which nothing can be written, and so nothing may be sent either.
func (s *Store) writable() error {
	s.commits.mu.Lock()
	defer s.commits.mu.Unlock()
	return s.commits.err
}

// notice brings memory up to the caller's transactions.
func (s *Store) notice() error {
	if !s.foreign.Swap(false) {
		return nil
	}
	err := s.db.View(s.catchUp)
	if err != nil {
		s.foreign.Store(true)
	}
	return err
}

// refresh brings memory up to the caller's transactions and takes back claims whose lease is over.
func (s *Store) refresh(ctx context.Context) error {
	if err := s.notice(); err != nil {
		return err
	}
	var canceled [][]byte
	s.mu.Lock()
	now := s.micros()
	for _, c := range s.board.Expired(now) {
		if s.canceledLocked(c) {
			canceled = append(canceled, doneKey(c.Seq, c.Hook.No))
			c.Settling = true
			continue
		}
		s.board.Drop(c, true, now)
	}
	s.mu.Unlock()
	if len(canceled) == 0 {
		return nil
	}
	settle := func(over bool) {
		for _, k := range canceled {
			seq, hook := splitDone(k)
			if c := s.board.Find(queue.Ref{Seq: seq, Hook: hook}); c != nil {
				c.Settling = false
				if over {
					s.board.Drop(c, false, s.micros())
					s.hooks[hook-1].settle(seq)
				}
			}
		}
	}
	err := s.submit(ctx, &op{
		alone: true,
		apply: func(g *group) error { return g.endCanceled(canceled) },
		done:  func() { settle(true) },
	})
	if err != nil {
		s.mu.Lock()
		settle(false)
		s.mu.Unlock()
	}
	return err
}

// pick is a claim on its way to the caller.
type pick struct {
	claim   *queue.Claim
	h       *hook
	webhook *postrider.Webhook
	check   bool // it may have a done row
	cached  *cached
}

func (s *Store) picksLocked(held []*queue.Claim) []pick {
	picks := make([]pick, len(held))
	for i, c := range held {
		h := s.hooks[c.Hook.No-1]
		picks[i] = pick{claim: c, h: h, webhook: h.webhook, check: c.Seq <= h.stat.done, cached: s.cache.take(c.Seq)}
	}
	return picks
}

// collect turns picks into claims. Those whose delivery has ended or waits for another time are dropped.
func (s *Store) collect(picks []pick) ([]postrider.Claim, error) {
	claims := make([]postrider.Claim, 0, len(picks))
	var stale []outdated
	var missing map[*hook]int // claims that will be dropped
	read := false
	for i := range picks {
		read = read || picks[i].check || picks[i].cached == nil
	}
	fill := func(file *reader) error {
		for i := range picks {
			p := &picks[i]
			r := row{seq: p.claim.Seq, hook: p.h.no, webhook: p.webhook}
			if p.cached != nil {
				r.flags, r.created, r.origin, r.event = p.cached.flags, p.cached.created, p.cached.origin, p.cached.event
			}
			if file != nil {
				ok, err := r.read(file, p.cached == nil, p.check)
				if err != nil {
					return err
				}
				if p.check && r.ended == nil {
					ok = ok && s.lives(file, r.seq, r.hook) // else its done row was there and is pruned
				}
				if !ok || r.ended != nil && (r.ended.status.Final() || r.ended.due != p.claim.Due) {
					old := outdated{claim: p.claim, h: p.h}
					if ok && !r.ended.status.Final() {
						old.due = r.ended.due
					}
					stale = append(stale, old)
					if missing == nil {
						missing = map[*hook]int{}
					}
					missing[p.h]++
					continue
				}
			}
			d, _, err := r.delivery(s.mask)
			if err != nil {
				return err
			}
			d.NextAt, d.InFlight = instant(p.claim.Due), true
			claims = append(claims, postrider.Claim{Delivery: d, Event: r.event, Webhook: *p.webhook, Token: p.claim.Token, Held: p.claim.Held - missing[p.h]})
		}
		return nil
	}
	var err error
	if read {
		err = s.view(fill)
	} else {
		err = fill(nil)
	}
	if err == nil && len(stale) == 0 {
		return claims, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.micros()
	if err != nil {
		for i := range picks {
			s.board.Drop(picks[i].claim, true, now)
		}
		return nil, err
	}
	for _, o := range stale {
		s.board.Drop(o.claim, false, now)
		o.h.settle(o.claim.Seq)
		if o.due != 0 {
			// The board drops entries of what is held, so that the right one may be gone.
			o.h.wait(queue.Entry{Seq: o.claim.Seq, Due: o.due})
			s.board.Touch(&o.h.place, now)
		}
	}
	return claims, nil
}

// outdated is a pick by an entry that no longer holds.
type outdated struct {
	claim *queue.Claim
	h     *hook
	due   int64 // when the delivery really is due; 0 if it has ended
}

// abandon drops claims that the caller will not get and returns err.
func (s *Store) abandon(claims []postrider.Claim, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range claims {
		if c := s.findLocked(claims[i].Delivery.ID, claims[i].Token); c != nil {
			s.board.Drop(c, true, s.micros())
		}
	}
	return err
}

// findLocked returns the claim on a delivery with this token, nil if it is no longer held.
func (s *Store) findLocked(deliveryID, token string) *queue.Claim {
	_, seq, hook, ok := s.mask.split(deliveryID)
	if !ok {
		return nil
	}
	if c := s.board.Find(queue.Ref{Seq: seq, Hook: hook}); c != nil && c.Token == token {
		return c
	}
	return nil
}

// giveBack touches hooks that the board left out because they have to be loaded.
func (s *Store) giveBack(load []*queue.Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range load {
		s.board.Touch(h, s.micros())
	}
}

// load reads ahead what waits of the given webhooks, and returns how many entries it passed over.
func (s *Store) load(load []*queue.Hook) (passed int, err error) {
	if len(load) == 0 {
		return 0, nil
	}
	defer s.giveBack(load)
	for _, place := range load {
		s.mu.Lock()
		h := s.hooks[place.No-1]
		fresh := h.fresh.behind && len(h.fresh.ahead) == 0
		next, moves := h.fresh.next, h.fresh.moves
		retries := h.later.short()
		last, turn, skipped := h.later.last, h.later.turn, h.later.skipped
		s.mu.Unlock()
		var ahead stretch
		var later []queue.Entry
		if err := s.view(func(file *reader) error {
			if fresh {
				ahead = readBy(file.top, h.no, next)
			}
			if retries {
				later = readRetry(file.top, h.no, last)
			}
			return nil
		}); err != nil {
			return passed, err
		}
		passed += ahead.passed
		s.mu.Lock()
		// Another caller may have loaded meanwhile; then what was read here is out of date.
		if fresh && h.fresh.behind && len(h.fresh.ahead) == 0 && h.fresh.next == next {
			h.fresh.ahead, h.fresh.next = ahead.entries, ahead.next
			// What went to by since may not have been seen.
			h.fresh.behind = ahead.more || moves != h.fresh.moves
		}
		if retries {
			h.later.fill(later, turn, skipped)
		}
		s.mu.Unlock()
	}
	return passed, nil
}

// stretch is a part of a webhook's deliveries in by.
type stretch struct {
	entries []queue.Entry // without those stored as parked
	passed  int           // how many of those there were
	next    uint64        // all below were looked at
	more    bool          // there may be others from there on
}

// readBy returns the first deliveries of a webhook in by, from a seq on.
func readBy(top *bbolt.Bucket, hook uint32, from uint64) stretch {
	y := stretch{next: from}
	c := top.Bucket(nameOf[bBy]).Cursor()
	for k, v := c.Seek(byKey(hook, from)); k != nil && binary.BigEndian.Uint32(k) == hook; k, v = c.Next() {
		if len(y.entries) == readAhead || y.passed == maxStale {
			y.more = true
			break
		}
		e := queue.Entry{Seq: binary.BigEndian.Uint64(k[4:]), Due: int64(binary.BigEndian.Uint64(v))}
		y.next = e.Seq + 1
		if parkedInBy(v) {
			y.passed++
		} else {
			y.entries = append(y.entries, e)
		}
	}
	return y
}

// readRetry returns the first deliveries of a webhook that wait for a retry, after one.
func readRetry(top *bbolt.Bucket, hook uint32, after queue.Entry) (list []queue.Entry) {
	c := top.Bucket(nameOf[bRetry]).Cursor()
	from := retryKey(hook, after.Due, after.Seq)
	for k, _ := c.Seek(from); k != nil && binary.BigEndian.Uint32(k) == hook && len(list) < readAhead; k, _ = c.Next() {
		e := queue.Entry{Due: int64(binary.BigEndian.Uint64(k[4:])), Seq: binary.BigEndian.Uint64(k[12:])}
		if e != after {
			list = append(list, e)
		}
	}
	return list
}

// claimOne hands out one delivery, due or not.
func (s *Store) claimOne(r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	x, err := s.find(r.Only)
	if err != nil || x == nil || x.ended != nil && x.ended.status.Final() {
		return nil, postrider.Forever, err
	}
	s.mu.Lock()
	h := s.hooks[x.hook-1]
	if x.parked || h.deleted || s.board.Find(queue.Ref{Seq: x.seq, Hook: x.hook}) != nil {
		s.mu.Unlock()
		return nil, postrider.Forever, nil
	}
	due := x.created
	if x.ended != nil {
		due = x.ended.due
	} else if !x.lane.parked {
		h.fresh.out = append(h.fresh.out, outstanding{seq: x.seq})
	}
	c := s.board.Hold(&h.place, queue.Entry{Seq: x.seq, Due: due}, r.Lease, s.micros())
	// It may have been claimed and ended since it was read: look again, now that nobody else can.
	p := pick{claim: c, h: h, webhook: h.webhook, check: true}
	s.mu.Unlock()
	claims, err := s.collect([]pick{p})
	return claims, 0, err
}
