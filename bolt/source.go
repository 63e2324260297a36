package bolt

import (
	"slices"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

const (
	readAhead = 256  // entries that are read from the file at once
	keepLater = 4096 // entries of later that are kept in memory
)

// hook is a webhook, the deliveries of it that wait, and its counters. It is guarded by Store.mu; webhook is
// replaced, never written to.
type hook struct {
	no      uint32
	webhook *postrider.Webhook
	deleted bool
	place   queue.Hook
	stat    stat      // as committed
	draft   stat      // as the present transaction changes it; its leader's
	drafted uint64    // the number of that transaction; its leader's
	young   []arrived // not in by yet, ascending; newer than all that is there
	fresh   fresh
	later   later
	looked  uint64 // no fresh delivery below is open, as Stats has seen
	swept   uint64 // every fresh delivery up to it has ended, or ends as canceled with its claim, but what was stored as parked

	youngLaned, youngParked uint64 // of young
}

// arrived is a delivery on its way to by.
type arrived struct {
	queue.Entry
	typ    uint32 // of its event
	laned  bool
	parked bool // when it was stored
}

// unended returns how many deliveries have not ended.
func (h *hook) unended() uint64 {
	return h.total() - h.stat.count[postrider.StatusDelivered] - h.stat.count[postrider.StatusCanceled] - h.stat.count[postrider.StatusFailed]
}

// untried returns how many deliveries have no done row.
func (h *hook) untried() uint64 { return h.unended() - h.stat.count[postrider.StatusInProcess] }

// total returns how many deliveries there are.
func (h *hook) total() uint64 { return h.stat.indexed + uint64(len(h.young)) - h.stat.pruned }

// laned returns how many open deliveries have a lane, and parked how many of these wait for their turn. The counters in
// stat lack those of young, which are added when they go to by, but not what has become of them meanwhile: alone they
// may be below zero, modulo 2^64, and only the sums mean something.
func (h *hook) laned() uint64 { return h.stat.laned + h.youngLaned }

func (h *hook) parked() uint64 { return h.stat.parked + h.youngParked }

// fresh is the deliveries without a done row, in the order of commits: what was read ahead, then what is in by, then
// young; but not what was stored as parked, which comes by way of later. It is a position in that order, and what came
// off it without having ended.
type fresh struct {
	ahead  []queue.Entry
	next   uint64 // what is below has come off or is in ahead
	behind bool   // by may hold some at or above next
	moves  int    // how often young went to by
	out    []outstanding
}

// outstanding is a fresh delivery that came off and has no done row yet.
type outstanding struct {
	seq    uint64
	ending bool // its done row is being written
}

// later is the deliveries that wait for a retry, those that got their turn in a lane, and all that were given back.
type later struct {
	queue.Entries
	more    bool        // the file holds others, all after last
	last    queue.Entry // the last that was read
	turn    int         // how often last was moved
	skipped int         // how often an entry was left to the file
}

// short reports whether the file may hold one that comes before all in memory.
func (l *later) short() bool {
	return l.more && (len(l.Entries) == 0 || before(l.last, l.Entries[0]))
}

// fill adds what was read of the file behind last, when turn and skipped were these. If last was moved meanwhile it is
// out of date. If an entry was left to the file it may lack that one, which may come before others here: then it must
// be read again, since nothing before last is looked for any more.
func (l *later) fill(list []queue.Entry, turn, skipped int) {
	if turn != l.turn || skipped != l.skipped {
		return
	}
	for _, e := range list {
		l.Push(e)
		l.last = e
	}
	l.turn++
	l.more = len(list) == readAhead
}

// Head returns the delivery that is due first.
func (h *hook) Head() (queue.Entry, queue.Answer) {
	f, answer := h.freshHead()
	if answer == queue.Load || h.later.short() {
		return queue.Entry{}, queue.Load
	}
	if len(h.later.Entries) > 0 && (answer == queue.None || h.later.Entries[0].Due <= f.Due) {
		return h.later.Entries[0], queue.Have
	}
	return f, answer
}

func (h *hook) freshHead() (queue.Entry, queue.Answer) {
	if len(h.fresh.ahead) > 0 {
		return h.fresh.ahead[0], queue.Have
	}
	if h.fresh.behind {
		return queue.Entry{}, queue.Load
	}
	for _, a := range h.young[h.untaken():] {
		if !a.parked {
			return a.Entry, queue.Have
		}
		h.fresh.next = a.Seq + 1
	}
	return queue.Entry{}, queue.None
}

// untaken returns the index of the first of young that has not come off.
func (h *hook) untaken() int {
	if len(h.young) == 0 || h.young[0].Seq >= h.fresh.next {
		return 0
	}
	return index(h.young, h.fresh.next)
}

// index returns the index of the first at or above seq.
func index(list []arrived, seq uint64) int {
	i, _ := slices.BinarySearchFunc(list, seq, func(a arrived, seq uint64) int {
		if a.Seq < seq {
			return -1
		}
		return 1
	})
	return i
}

// Pop removes what Head returned.
func (h *hook) Pop() {
	f, answer := h.freshHead()
	if len(h.later.Entries) > 0 && (answer == queue.None || h.later.Entries[0].Due <= f.Due) {
		h.later.Pop()
		return
	}
	if len(h.fresh.ahead) > 0 {
		h.fresh.ahead = h.fresh.ahead[1:]
	} else {
		h.fresh.next = f.Seq + 1
	}
	h.fresh.out = append(h.fresh.out, outstanding{seq: f.Seq})
}

// Push takes back what was popped.
func (h *hook) Push(e queue.Entry) { h.later.Push(e) }

// wait adds a delivery that is to be tried again, or has got its turn; it is in retry already.
func (h *hook) wait(e queue.Entry) {
	l := &h.later
	if l.more && !before(e, l.last) {
		l.skipped++
		return
	}
	l.Push(e)
	if len(l.Entries) <= keepLater+len(h.fresh.out) {
		return
	}
	// The file has those that wait for a retry, but not the fresh ones that were given back: they stay.
	given := make(map[uint64]bool, len(h.fresh.out))
	for _, o := range h.fresh.out {
		given[o.seq] = true
	}
	slices.SortFunc(l.Entries, compare)
	kept := slices.Clone(l.Entries[:keepLater/2])
	for _, e := range l.Entries[keepLater/2:] {
		if given[e.Seq] {
			kept = append(kept, e)
		}
	}
	l.Entries, l.more, l.last = kept, true, kept[keepLater/2-1]
	l.turn++
}

func compare(a, b queue.Entry) int {
	if before(a, b) {
		return -1
	}
	return 1
}

func before(a, b queue.Entry) bool { return a.Due < b.Due || a.Due == b.Due && a.Seq < b.Seq }

// ending notes whether the done row of a fresh delivery is being written.
func (h *hook) ending(seq uint64, yes bool) {
	for i := range h.fresh.out {
		if h.fresh.out[i].seq == seq {
			h.fresh.out[i].ending = yes
		}
	}
}

// settle forgets a fresh delivery whose done row is there.
func (h *hook) settle(seq uint64) {
	h.fresh.out = slices.DeleteFunc(h.fresh.out, func(o outstanding) bool { return o.seq == seq })
}

// mark returns the stat.ended that will hold once the done rows that are being written are there.
func (h *hook) mark() uint64 {
	low := h.fresh.next
	if len(h.fresh.ahead) > 0 {
		low = h.fresh.ahead[0].Seq
	}
	for _, o := range h.fresh.out {
		if !o.ending {
			low = min(low, o.seq)
		}
	}
	return max(low, 1) - 1
}

// moved takes the first n of young away: they are in by now.
func (h *hook) moved(n int) {
	f := &h.fresh
	f.moves++
	left := h.young[min(h.untaken(), n):n]
	if h.youngLaned > 0 {
		h.countLanes(h.young[:n], ^uint64(0))
	}
	h.young = h.young[n:]
	if len(h.young) == 0 {
		h.young = nil
	}
	if len(left) == 0 || f.behind {
		return
	}
	known := len(f.ahead)
	for _, a := range left {
		if a.parked {
			continue
		}
		if len(f.ahead) == max(known, 4*readAhead) {
			f.ahead, f.behind = f.ahead[:known], true
			return
		}
		f.ahead = append(f.ahead, a.Entry)
	}
	f.next = left[len(left)-1].Seq + 1
}

// countLanes adds n, which may be -1, for each of a list with a lane.
func (h *hook) countLanes(list []arrived, n uint64) {
	for _, a := range list {
		if a.laned {
			h.youngLaned += n
		}
		if a.parked {
			h.youngParked += n
		}
	}
}

// passed tells that every delivery up to seq has ended or is outstanding, so that mark can move on although nothing
// came off.
func (h *hook) passed(seq uint64) {
	f := &h.fresh
	for len(f.ahead) > 0 && f.ahead[0].Seq <= seq {
		f.ahead = f.ahead[1:]
	}
	if len(f.ahead) == 0 {
		f.next = max(f.next, seq+1)
	}
}
