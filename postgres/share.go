package postgres

import "time"

// While many webhooks have something due, those that had more than their share at their last turn are asked for more at a
// time: what the server does for a webhook of a turn takes longer than what it does for a delivery.
const (
	chunk = 8   // deliveries of a webhook at most
	round = 512 // deliveries until all that were seen have had a turn
	spare = 4   // webhooks of a turn for each that is to give something, if there are so many
)

// depth is what is known of a webhook that gave all of its share at its last turn.
type depth struct {
	share int       // of that turn
	at    time.Time // when that turn began
	next  int       // of the next turn
}

// deal returns the shares of the first webhooks of a list, and how many of them have them until the caller's room is given
// away. The others are for those of which another process is claiming.
func (c *claiming) deal(list []sight) (share []int32, n int) {
	room := c.r.Max - len(c.claims)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for i := 0; i < len(list) && (room > 0 || i < spare*n); i++ {
		k := 1
		if room > 0 {
			k = (room + len(list) - i - 1) / (len(list) - i) // as even as can be
			n++
		}
		if len(list) > chunk {
			k = max(k, min(c.each, c.s.depth[list[i].no].next))
		}
		k = min(k, c.limit(&list[i]))
		share, room = append(share, int32(k)), room-k
	}
	return share, n
}

// suffices reports whether webhooks are enough for the caller if each gives what it may at a time.
func (c *claiming) suffices(list []sight) bool {
	n := 0
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for i := range list {
		n += min(max(1, min(c.each, c.s.depth[list[i].no].next)), c.limit(&list[i]))
	}
	return n >= c.r.Max
}

// fathom notes how much a webhook gave of its share, in a turn that began at a moment. The caller holds mu.
func (s *Store) fathom(no int64, gave, share int, at time.Time) {
	if gave < share {
		delete(s.depth, no)
		return
	}
	if s.depth == nil || len(s.depth) >= maxKnown {
		s.depth = map[int64]depth{}
	}
	s.depth[no] = depth{share: share, at: at, next: 1}
}

// deepen says how much webhooks that are seen now may give at their next turn: twice their last share if they had more
// then, which is so if what is due first has been due since before that turn; else one, as webhooks have that get
// something now and then. The server's clock is not compared with this process': the time since the turn is taken for too
// long rather than too short.
func (s *Store) deepen(seen []sight) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range seen {
		w := &seen[i]
		d, full := s.depth[w.no]
		if !full || w.in == nil {
			continue
		}
		if d.next = 1; -*w.in >= now.Sub(d.at).Microseconds() {
			d.next = min(2*d.share, chunk)
		}
		s.depth[w.no] = d
	}
}
