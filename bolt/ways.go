package bolt

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"
)

// way goes through deliveries in the direction of its walk, within its bounds.
type way interface {
	next() (place, bool)
}

// place is a delivery on a way, with the hash of its event's type if the way knows it.
type place struct {
	position
	typ   uint32
	typed bool
}

// parseOrigin returns the key's form of the ID of a delivery.
func parseOrigin(id string) ([]byte, bool) {
	u, err := uuid.Parse(id)
	return u[:], err == nil && u.String() == id
}

// listWay is a list of positions.
type listWay struct{ left []position }

func newList(list []position, w *walk) *listWay {
	list = slices.DeleteFunc(list, func(p position) bool { return p.seq < w.low || p.seq > w.high })
	if !w.plan.Ascending {
		slices.Reverse(list)
	}
	return &listWay{list}
}

func (y *listWay) next() (place, bool) {
	if len(y.left) == 0 {
		return place{}, false
	}
	p := y.left[0]
	y.left = y.left[1:]
	return place{position: p}, true
}

// byWay is the deliveries of a webhook: what is in by, and the newer ones that are not.
type byWay struct {
	w     *walk
	no    uint32
	low   uint64
	young []arrived
	c     *bbolt.Cursor
	begun bool
	over  bool // what is in by was passed
}

func newByWay(w *walk, h *hook, low uint64) *byWay {
	young := w.young[h]
	young = young[index(young, w.stat(h.no).flushed+1):] // the others went to by since
	young = young[index(young, low):]
	if w.high < math.MaxUint64 {
		young = young[:index(young, w.high+1)]
	}
	return &byWay{w: w, no: h.no, low: low, young: young, c: w.file.top.Bucket(nameOf[bBy]).Cursor()}
}

func (y *byWay) next() (place, bool) {
	if y.w.plan.Ascending {
		if p, ok := y.nextBy(); ok {
			return p, true
		}
		return y.nextYoung()
	}
	if p, ok := y.nextYoung(); ok {
		return p, true
	}
	return y.nextBy()
}

func (y *byWay) nextBy() (place, bool) {
	if y.over {
		return place{}, false
	}
	k, v := y.step()
	if k != nil && binary.BigEndian.Uint32(k) == y.no {
		if seq := binary.BigEndian.Uint64(k[4:]); seq >= y.low && seq <= y.w.high {
			return place{position{seq, y.no}, binary.BigEndian.Uint32(v[8:]), true}, true
		}
	}
	y.over = true
	return place{}, false
}

func (y *byWay) nextYoung() (place, bool) {
	if len(y.young) == 0 {
		return place{}, false
	}
	i := len(y.young) - 1
	if y.w.plan.Ascending {
		i = 0
	}
	a := y.young[i]
	if i == 0 {
		y.young = y.young[1:]
	} else {
		y.young = y.young[:i]
	}
	return place{position{a.Seq, y.no}, a.typ, true}, true
}

func (y *byWay) step() (k, v []byte) {
	if y.begun {
		return advance(y.c, y.w.plan.Ascending)
	}
	y.begun = true
	if y.w.plan.Ascending {
		return y.c.Seek(byKey(y.no, y.low))
	}
	return seekLast(y.c, byKey(y.no, y.w.high))
}

// seekLast puts a cursor on the last key that is not above k.
func seekLast(c *bbolt.Cursor, k []byte) (key, v []byte) {
	key, v = c.Seek(k)
	switch {
	case key == nil:
		return c.Last()
	case bytes.Equal(key, k):
		return key, v
	}
	return c.Prev()
}

func advance(c *bbolt.Cursor, ascending bool) (k, v []byte) {
	if ascending {
		return c.Next()
	}
	return c.Prev()
}

// oddWay is the rows with one value of a dimension.
type oddWay struct {
	w      *walk
	prefix []byte
	c      *bbolt.Cursor
	begun  bool
}

func newOddWay(w *walk, prefix []byte) *oddWay {
	return &oddWay{w: w, prefix: prefix, c: w.file.top.Bucket(nameOf[bOdd]).Cursor()}
}

func (y *oddWay) next() (place, bool) {
	var k []byte
	switch {
	case y.begun:
		k, _ = advance(y.c, y.w.plan.Ascending)
	case y.w.plan.Ascending:
		k, _ = y.c.Seek(append(slices.Clone(y.prefix), doneKey(y.w.low, 0)...))
	default:
		k, _ = seekLast(y.c, append(slices.Clone(y.prefix), doneKey(y.w.high, math.MaxUint32)...))
	}
	y.begun = true
	if len(k) != len(y.prefix)+12 || !bytes.HasPrefix(k, y.prefix) {
		return place{}, false
	}
	seq, no := splitDone(k[len(y.prefix):])
	return place{position: position{seq, no}}, seq >= y.w.low && seq <= y.w.high
}

// logWay is the deliveries of all webhooks, event by event.
type logWay struct {
	w     *walk
	low   uint64
	c     *bbolt.Cursor
	begun bool
	seq   uint64
	typ   uint32
	left  []uint32 // webhooks of the event at hand
}

func newLogWay(w *walk, low uint64) *logWay {
	return &logWay{w: w, low: low, c: w.file.top.Bucket(nameOf[bLog]).Cursor()}
}

func (y *logWay) next() (place, bool) {
	for len(y.left) == 0 {
		if !y.event() {
			return place{}, false
		}
	}
	p := place{position{y.seq, y.left[0]}, y.typ, true}
	y.left = y.left[1:]
	return p, true
}

// event goes to the next event.
func (y *logWay) event() bool {
	var k, v []byte
	switch {
	case y.begun:
		k, v = advance(y.c, y.w.plan.Ascending)
	case y.w.plan.Ascending:
		k, v = y.c.Seek(seqKey(y.low))
	default:
		k, v = seekLast(y.c, seqKey(y.w.high))
	}
	y.begun = true
	if k == nil {
		return false
	}
	y.seq = binary.BigEndian.Uint64(k)
	if y.seq < y.low || y.seq > y.w.high {
		return false
	}
	r, err := decodeRecord(v)
	if err != nil {
		y.w.err = err
		return false
	}
	y.typ = r.typ
	for i := range r.len() {
		if y.w.plan.Ascending {
			y.left = append(y.left, r.hook(i))
		} else {
			y.left = append(y.left, r.hook(r.len()-1-i))
		}
	}
	return true
}
