package bolt

import "github.com/postrider/postrider"

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
