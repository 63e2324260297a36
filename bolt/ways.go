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

// oneWay is a single delivery.
type oneWay struct{ left position } // seq is 0 at the end

func newOneWay(w *walk, p position) *oneWay {
	if p.seq < w.low || p.seq > w.high {
		return &oneWay{}
	}
	return &oneWay{p}
}

func (y *oneWay) next() (place, bool) {
	p := y.left
	y.left = position{}
	return place{position: p}, p.seq != 0
}

// scan goes through the entries of a bucket between two keys, in the direction of a walk.
type scan struct {
	c         *bbolt.Cursor // nil at the end
	low, high []byte        // both inclusive
	ascending bool
	begun     bool
}

func (w *walk) scan(b bucket, low, high []byte) scan {
	return scan{c: w.file.top.Bucket(nameOf[b]).Cursor(), low: low, high: high, ascending: w.plan.Ascending}
}

// next returns the next entry, nil if there is none.
func (s *scan) next() (k, v []byte) {
	switch {
	case s.c == nil:
		return nil, nil
	case s.begun && s.ascending:
		k, v = s.c.Next()
	case s.begun:
		k, v = s.c.Prev()
	case s.ascending:
		k, v = s.c.Seek(s.low)
	default:
		k, v = seekLast(s.c, s.high)
	}
	s.begun = true
	if k == nil || bytes.Compare(k, s.low) < 0 || bytes.Compare(k, s.high) > 0 {
		s.c = nil
		return nil, nil
	}
	return k, v
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

// byWay is the deliveries of a webhook: what is in by, and the newer ones that are not.
type byWay struct {
	w     *walk
	no    uint32
	by    scan
	young []arrived
}

func newByWay(w *walk, h *hook, low, high uint64) *byWay {
	young := w.young[h]
	young = young[index(young, w.stat(h.no).flushed+1):] // the others went to by since
	young = young[index(young, low):]
	if high < math.MaxUint64 {
		young = young[:index(young, high+1)]
	}
	return &byWay{w: w, no: h.no, by: w.scan(bBy, byKey(h.no, low), byKey(h.no, high)), young: young}
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
	k, v := y.by.next()
	if k == nil {
		return place{}, false
	}
	return place{position{binary.BigEndian.Uint64(k[4:]), y.no}, binary.BigEndian.Uint32(v[8:]), true}, true
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

// oddWay is the rows with one value of a dimension.
type oddWay struct {
	rows   scan
	prefix int
}

func newOddWay(w *walk, prefix []byte) *oddWay {
	return &oddWay{w.scan(bOdd, slices.Concat(prefix, doneKey(w.low, 0)), slices.Concat(prefix, doneKey(w.high, math.MaxUint32))), len(prefix)}
}

func (y *oddWay) next() (place, bool) {
	k, _ := y.rows.next()
	if len(k) != y.prefix+12 {
		return place{}, false
	}
	seq, no := splitDone(k[y.prefix:])
	return place{position: position{seq, no}}, true
}

// logWay is the deliveries of some events, event by event.
type logWay struct {
	w    *walk
	step func() (seq uint64, record []byte) // the next event: 0 if there is none, nil if it was pruned
	seq  uint64
	typ  uint32
	left []uint32 // webhooks of the event at hand
}

// newLogWay passes all events.
func newLogWay(w *walk, low, high uint64) *logWay {
	log := w.scan(bLog, seqKey(low), seqKey(high))
	return &logWay{w: w, step: func() (uint64, []byte) {
		k, v := log.next()
		if k == nil {
			return 0, nil
		}
		return binary.BigEndian.Uint64(k), v
	}}
}

// newReplayWay passes the replays of one event; prefix is its key in again.
func newReplayWay(w *walk, prefix []byte) *logWay {
	again := w.scan(bAgain, slices.Concat(prefix, seqKey(w.low)), slices.Concat(prefix, seqKey(w.high)))
	return &logWay{w: w, step: func() (uint64, []byte) {
		k, _ := again.next()
		if k == nil {
			return 0, nil
		}
		seq := k[len(prefix):]
		return binary.BigEndian.Uint64(seq), w.file.get(bLog, seq)
	}}
}

// newEventWay passes events by their numbers.
func newEventWay(w *walk, seqs []uint64) *logWay {
	seqs = slices.DeleteFunc(seqs, func(seq uint64) bool { return seq < w.low || seq > w.high })
	slices.Sort(seqs)
	if !w.plan.Ascending {
		slices.Reverse(seqs)
	}
	return &logWay{w: w, step: func() (seq uint64, record []byte) {
		if len(seqs) == 0 {
			return 0, nil
		}
		seq, seqs = seqs[0], seqs[1:]
		return seq, w.file.get(bLog, seqKey(seq))
	}}
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
	seq, v := y.step()
	if seq == 0 || v == nil {
		return seq != 0
	}
	r, err := decodeRecord(v)
	if err != nil {
		y.w.err = err
		return false
	}
	y.seq, y.typ = seq, r.typ
	for i := range r.len() {
		if y.w.plan.Ascending {
			y.left = append(y.left, r.hook(i))
		} else {
			y.left = append(y.left, r.hook(r.len()-1-i))
		}
	}
	return true
}
