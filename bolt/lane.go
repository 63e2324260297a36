package bolt

import (
	"bytes"
	"encoding/binary"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// Order. A delivery may have a lane: of one lane only the first, in the order of commits, is handed out, the others are
// parked. Nobody waits for its turn by asking: when the first ends, the next is promoted, in the same transaction.
//
//	L1 The lane is decided when the delivery is stored, for good, and so is whether it was parked then: both are in
//	   the log record, and parked in by too.
//	L2 lane has each open delivery with a lane. The first entry of a lane is turnFirst or turnPromoted, all others are
//	   turnParked.
//	L3 What was stored as parked never comes off fresh: that walk, and the mark stat.ended, pass it by. It has a key in
//	   odd, as NEW, until its first attempt has ended, by which queries and Change find it.
//	L4 Once promoted it has an entry in retry, due when it was made, until its first attempt has ended. So it waits
//	   among those that are to be tried again, also after a crash.
//	L5 A caller's transaction does all of this but for the counters in stat, which follow when by does. It promotes
//	   nothing, since it ends nothing.
type lane struct {
	hash   uint64 // of the order key; 0: the webhook's own
	parked bool   // when it was stored
}

// target is a webhook as a log record names it: its number, and what its delivery's lane is.
type target uint32

const (
	targetParked target = 1 << 31 // stored as parked
	targetOwn    target = 1 << 30 // the lane is the webhook's own, whatever the order key
)

func (t target) hook() uint32 { return uint32(t &^ (targetParked | targetOwn)) }

// lane returns the delivery's lane in a record with this hash; ok is false if it has none.
func (t target) lane(hash uint64) (l lane, ok bool) {
	l.parked = t&targetParked != 0
	if t&targetOwn == 0 {
		l.hash = hash
	}
	return l, l.hash != 0 || t&targetOwn != 0
}

// Values of lane.
const (
	turnFirst    = 0 // from the start
	turnParked   = 1
	turnPromoted = 2
)

// keyHash returns the hash of an order key (FNV-1a), never 0. Two keys with one hash share a lane, and nothing worse.
func keyHash(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return max(h, 1)
}

// laneKey begins with laneLen bytes that are the lane.
func laneKey(hook uint32, hash, seq uint64) []byte {
	k := binary.BigEndian.AppendUint32(make([]byte, 0, 20), hook)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(k, hash), seq)
}

const laneLen = 12

// parkedKeys returns the keys that a delivery has in odd from being stored as parked until its first attempt has ended.
func parkedKeys(seq uint64, hook uint32) [][]byte {
	place := doneKey(seq, hook)
	keys := make([][]byte, 2)
	for i, scope := range []uint32{0, hook} {
		keys[i] = append(oddPrefix(scope, oddStatus, byte(postrider.StatusNew)), place...)
	}
	return keys
}

// parked reports whether a delivery waits for its turn.
func (r *reader) parked(hook uint32, l lane, seq uint64) bool {
	if !l.parked {
		return false
	}
	v := r.get(bLane, laneKey(hook, l.hash, seq))
	return len(v) == 1 && v[0] == turnParked
}

// line puts the deliveries of a letter at the ends of their lanes, and notes in its value which are parked.
func (g *group) line(l *letter) {
	at := targetsAt(len(l.targets))
	c := g.bucket(bLane).Cursor()
	for i, to := range l.targets {
		place, ok := to.lane(l.hash)
		if !ok {
			continue
		}
		no := to.hook()
		key := laneKey(no, place.hash, l.seq)
		turn := byte(turnFirst)
		if first, _ := c.Seek(key[:laneLen]); bytes.HasPrefix(first, key[:laneLen]) {
			turn = turnParked
			l.targets[i] |= targetParked
			binary.BigEndian.PutUint32(l.value[at+4*i:], uint32(l.targets[i]))
			for _, k := range parkedKeys(l.seq, no) {
				g.put(bOdd, k, nil)
			}
		}
		g.put(bLane, key, []byte{turn})
	}
}

// laned reports whether a webhook has deliveries with a lane. What is stored in the same transaction does not count: it
// cannot end there.
func (g *group) laned(h *hook) bool {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return h.laned() > 0
}

// laneOf returns the lane of a delivery and when it was made; ok is false if it has none.
func (g *group) laneOf(h *hook, seq uint64) (l lane, created int64, ok bool, err error) {
	if !g.laned(h) {
		return l, 0, false, nil
	}
	r, err := decodeRecord(g.get(bLog, seqKey(seq)))
	if err != nil {
		return l, 0, false, err
	}
	l, ok = r.lane(h.no)
	return l, r.created, ok, nil
}

// started takes away what a delivery has only before its first attempt ends.
func (g *group) started(h *hook, seq uint64) error {
	l, created, ok, err := g.laneOf(h, seq)
	if err != nil || !ok || !l.parked {
		return err
	}
	for _, k := range parkedKeys(seq, h.no) {
		g.delete(bOdd, k)
	}
	g.delete(bRetry, retryKey(h.no, created, seq))
	return nil
}

// leave takes a delivery that has ended out of its lane, if it has one, and promotes the one whose turn it is then.
func (g *group) leave(h *hook, seq uint64) error {
	l, _, ok, err := g.laneOf(h, seq)
	if err != nil || !ok {
		return err
	}
	st := g.stat(h)
	if g.parked(h.no, l, seq) {
		st.parked--
	}
	st.laned--
	key := laneKey(h.no, l.hash, seq)
	g.delete(bLane, key)
	first, v := g.bucket(bLane).Cursor().Seek(key[:laneLen])
	if !bytes.HasPrefix(first, key[:laneLen]) || len(v) != 1 || v[0] != turnParked {
		return nil // none is left, or one before it has its turn still
	}
	next := binary.BigEndian.Uint64(first[laneLen:])
	r, err := decodeRecord(g.get(bLog, seqKey(next)))
	if err != nil {
		return err
	}
	g.put(bLane, laneKey(h.no, l.hash, next), []byte{turnPromoted})
	g.put(bRetry, retryKey(h.no, r.created, next), nil)
	st.parked--
	if g.turns == nil {
		g.turns = map[queue.Ref]turn{}
	}
	g.turns[queue.Ref{Seq: next, Hook: h.no}] = turn{h, queue.Entry{Seq: next, Due: r.created}}
	return nil
}

// turn is a delivery that a transaction promotes.
type turn struct {
	h     *hook
	entry queue.Entry
}

// promotes reports whether the transaction promotes a delivery: without a commit it is parked still.
func (g *group) promotes(h *hook, seq uint64) bool {
	_, ok := g.turns[queue.Ref{Seq: seq, Hook: h.no}]
	return ok
}
