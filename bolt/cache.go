package bolt

import (
	"cmp"
	"slices"

	"github.com/postrider/postrider"
)

// cache keeps the freshest events with their payloads until their deliveries have been claimed, so that a claim need
// not read them back. What does not fit is read from the file.
type cache struct {
	slots []slot // by number, which ascends
	kept  int    // slots with an event
	size  int
}

type slot struct {
	seq   uint64
	event *cached // nil: not kept any more
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

// cachedSize is about what an event takes beside its record.
const cachedSize = 512

// add keeps an event. Its number is above those of all before it.
func (c *cache) add(seq uint64, e *cached) {
	c.slots = append(c.slots, slot{seq, e})
	c.kept++
	c.size += e.size
	for c.size > maxCache || len(c.slots) > 2*c.kept+64 {
		c.remove(0)
		c.slots = c.slots[1:]
	}
}

func (c *cache) remove(i int) {
	if e := c.slots[i].event; e != nil {
		c.slots[i].event = nil
		c.kept--
		c.size -= e.size
	}
}

// take returns an event for one of its claims, nil if it is not kept.
func (c *cache) take(seq uint64) *cached {
	i, found := c.find(seq)
	if !found {
		return nil
	}
	e := c.slots[i].event
	if e != nil {
		if e.left--; e.left <= 0 {
			c.remove(i)
		}
	}
	return e
}

// find returns the slot of a number. As a rule none is missing before it, so that its place is known.
func (c *cache) find(seq uint64) (i int, found bool) {
	if len(c.slots) == 0 || seq < c.slots[0].seq {
		return 0, false
	}
	i = int(min(seq-c.slots[0].seq, uint64(len(c.slots)-1)))
	if c.slots[i].seq == seq {
		return i, true
	}
	return slices.BinarySearchFunc(c.slots[:i], seq, func(s slot, seq uint64) int { return cmp.Compare(s.seq, seq) })
}
