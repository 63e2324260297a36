package postgres

// While many webhooks have something due, those that have always given all of their share are asked for more at a time:
// what the server does for a webhook of a turn takes longer than what it does for a delivery.
const (
	chunk = 8   // deliveries of a webhook at most
	round = 512 // deliveries until all that were seen have had a turn
)

// deal returns the shares of the first webhooks of a list, until the caller's room is given away.
func (c *claiming) deal(list []sight) (share []int32) {
	room := c.r.Max - len(c.claims)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for i := 0; i < len(list) && room > 0; i++ {
		k := (room + len(list) - i - 1) / (len(list) - i) // as even as can be
		if len(list) > chunk {
			k = max(k, min(c.each, c.s.depth[list[i].no]))
		}
		k = min(k, c.limit(&list[i]), room)
		share, room = append(share, int32(k)), room-k
	}
	return share
}

// fathom notes how much a webhook that gave so many of its share may give at its next turn. The caller holds mu.
func (s *Store) fathom(no int64, gave, share int) {
	if gave < share {
		delete(s.depth, no)
		return
	}
	if s.depth == nil || len(s.depth) >= maxKnown {
		s.depth = map[int64]int{}
	}
	s.depth[no] = min(max(s.depth[no], share)*2, chunk)
}
