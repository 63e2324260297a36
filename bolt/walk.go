package bolt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

// A query is answered by a walk: ways that go through deliveries in the order of commits, one for each webhook or each
// value of a dimension, are merged, and each delivery on them is looked at. The ways only narrow down; what a query
// selects is always decided by DeliveryQuery.Matches, so that a way too many costs time and nothing else.
//
// A walk has a budget, for rows of a full page and then some, and may end before its page is full. Its units are about
// half a microsecond, so that a call with the default limit takes 2 to 3 ms at most.
const (
	budget    = 4_000
	costRow   = 10 // to read a delivery, for each row of the limit too
	costDone  = 4  // to read its done row only
	maxMerged = 64 // webhooks that are walked one by one; for more the log is
)

// position is a place in the order of commits; within an event webhooks come in the order of their creation.
type position struct {
	seq  uint64
	hook uint32
}

func (p position) compare(o position) int {
	return cmp.Or(cmp.Compare(p.seq, o.seq), cmp.Compare(p.hook, o.hook))
}

// plan is a query, and what else its caller knows.
type plan struct {
	postrider.DeliveryQuery
	unusual bool                          // only rows that are not usual can hold what is looked for
	attempt func(*postrider.Attempt) bool // one of its attempts is so; nil: any or none
}

// walk is one walk. Everything in it but what newWalk took from memory is of one transaction.
type walk struct {
	s       *Store
	plan    plan
	hooks   []*hook // as of the start
	wanted  []*hook // those that the query allows
	young   map[*hook][]arrived
	file    *reader
	stats   map[uint32]stat
	low     uint64 // seq, both inclusive
	high    uint64
	at      position // the last that was visited
	set     bool
	again   bool   // at is visited once more
	left    int    // of the budget
	typ     uint32 // of the query, if exact
	hasType bool
	err     error // of a way
}

// newWalk takes from memory what a walk needs, before its transaction starts: what is not in by as of the copy may be
// there by then, never the other way round. It returns nil if nothing can be selected.
func (s *Store) newWalk(p plan, limit int, at position, set bool) (*walk, error) {
	if err := s.notice(); err != nil {
		return nil, err
	}
	w := &walk{s: s, plan: p, at: at, set: set, left: budget + limit*costRow, young: map[*hook][]arrived{}, stats: map[uint32]stat{}}
	if t := p.EventType; t != "" && t[len(t)-1] != '*' {
		w.typ, w.hasType = typeHash(t), true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.hooks = s.hooks
	switch {
	case p.ID != "":
		_, _, no, ok := s.mask.split(p.ID)
		if !ok || no == 0 || int(no) > len(s.hooks) {
			return nil, nil
		}
		w.wanted = s.hooks[no-1 : no]
	case p.WebhookID != "":
		h := s.byID[p.WebhookID]
		if h == nil {
			return nil, nil
		}
		w.wanted = []*hook{h}
	case p.Project != "":
		w.wanted = s.projects[p.Project]
	default:
		w.wanted = s.hooks
	}
	if p.ID != "" || p.WebhookID != "" || p.Owner != "" {
		w.wanted = slices.DeleteFunc(slices.Clone(w.wanted), func(h *hook) bool { return !w.allows(h) })
	}
	if len(w.wanted) == 0 {
		return nil, nil
	}
	if len(w.wanted) <= maxMerged {
		for _, h := range w.wanted {
			w.young[h] = h.young
		}
	}
	return w, nil
}

// allows reports whether the query selects deliveries of a webhook. It is called with Store.mu held.
func (w *walk) allows(h *hook) bool {
	q := &w.plan
	return (q.WebhookID == "" || q.WebhookID == h.webhook.ID) && (q.Project == "" || q.Project == h.webhook.Project) &&
		(q.Owner == "" || q.Owner == h.webhook.Owner)
}

// run calls f for one delivery after the other until it returns false. more is true if others may follow.
func (w *walk) run(f func(position) (bool, error)) (more bool, err error) {
	err = w.s.view(func(file *reader) (err error) {
		w.file = file
		w.low, w.high = 1, math.MaxUint64
		w.bound()
		if w.low > w.high {
			return nil
		}
		more, err = w.merge(w.ways(), f)
		return err
	})
	return more, err
}

// bound turns the query's times and its cursor into numbers of events. Creation times ascend with them.
func (w *walk) bound() {
	if !w.plan.From.IsZero() {
		w.low = max(w.low, w.firstAt(w.plan.From))
	}
	if !w.plan.To.IsZero() {
		w.high = min(w.high, w.firstAt(w.plan.To.Add(time.Microsecond).Truncate(time.Microsecond))-1)
	}
	if w.set && w.plan.Ascending {
		w.low = max(w.low, w.at.seq)
	}
	if w.set && !w.plan.Ascending {
		w.high = min(w.high, w.at.seq)
	}
}

// firstAt returns the first seq of an event that was made at t or later.
func (w *walk) firstAt(t time.Time) uint64 {
	micros := t.UnixMicro()
	if instant(micros).Before(t) {
		micros++ // what is kept is cut
	}
	return w.file.firstAt(micros)
}

// firstAt returns the first seq of an event that was made then or later, by halving, and one above all if there is none.
func (r *reader) firstAt(micros int64) uint64 {
	c := r.top.Bucket(nameOf[bLog]).Cursor()
	first, _ := c.First()
	last, _ := c.Last()
	if first == nil {
		return 1
	}
	low, high := binary.BigEndian.Uint64(first), binary.BigEndian.Uint64(last)+1
	for low < high {
		middle := low + (high-low)/2
		k, v := c.Seek(seqKey(middle))
		if k == nil || int64(binary.BigEndian.Uint64(v[createdAt:])) >= micros {
			high = middle
		} else {
			low = binary.BigEndian.Uint64(k) + 1
		}
	}
	return low
}

// ways returns ways that pass every delivery the query may select.
func (w *walk) ways() []way {
	q := &w.plan
	switch {
	case q.ID != "":
		_, seq, no, _ := w.s.mask.split(q.ID)
		return []way{newOneWay(w, position{seq, no})}
	case q.EventID != "":
		return w.eventWays()
	case q.ReplayOf != "":
		origin, ok := parseOrigin(q.ReplayOf)
		if !ok {
			return nil
		}
		return w.odd(oddReplay, origin)
	case q.Test == postrider.ChoiceYes:
		return w.odd(oddTest)
	case len(q.Statuses) > 0 && !slices.Contains(q.Statuses, postrider.StatusDelivered):
		return w.statusWays(q.Statuses)
	case q.Code == postrider.CodeNone && q.MinAttempts == 0:
		return append(w.fresh(), w.odd(oddCode, []byte{0, 0})...)
	case q.Code != "" && q.Code[0] != '2':
		return w.codeWays(q.Code)
	case q.MinAttempts > 1:
		return w.valueWays(oddAttempts, []byte{byte(min(q.MinAttempts, 255))}, []byte{255})
	case q.unusual:
		return w.valueWays(oddStatus, []byte{byte(postrider.StatusInProcess)}, []byte{byte(postrider.StatusFailed)})
	}
	return w.all()
}

// all passes all deliveries of the wanted webhooks.
func (w *walk) all() (ways []way) {
	touched := w.touched() // then a backlog, which may be long, is not walked past
	if len(w.wanted) > maxMerged {
		high := w.high
		if touched {
			high = min(high, w.lastDone())
		}
		return []way{newLogWay(w, w.low, high)}
	}
	for _, h := range w.wanted {
		high := w.high
		if touched {
			high = min(high, w.stat(h.no).done)
		}
		ways = append(ways, newByWay(w, h, w.low, high))
	}
	return ways
}

// touched reports whether a query that passes all selects nothing without a done row.
func (w *walk) touched() bool {
	q := &w.plan
	return q.MinAttempts > 0 || q.Code != "" || len(q.Statuses) > 0 && !slices.Contains(q.Statuses, postrider.StatusNew)
}

// lastDone returns the last event of which a delivery has a done row, 0 if there is none.
func (w *walk) lastDone() (seq uint64) {
	if k, _ := w.file.cursor(bDone).Last(); k != nil {
		seq, _ = splitDone(k)
	}
	return seq
}

// fresh passes all that have no done row, and few others.
func (w *walk) fresh() (ways []way) {
	if w.laned() {
		ways = w.odd(oddStatus, []byte{byte(postrider.StatusNew)}) // those stored as parked, also up to ended
	}
	if len(w.wanted) > maxMerged {
		return append(ways, newLogWay(w, max(w.low, w.firstOpen()), w.high))
	}
	for _, h := range w.wanted {
		ways = append(ways, newByWay(w, h, max(w.low, w.stat(h.no).ended+1), w.high))
	}
	return ways
}

// laned reports whether some of the wanted may have open deliveries with a lane.
func (w *walk) laned() bool {
	c := w.file.cursor(bLane)
	if len(w.wanted) > maxMerged {
		k, _ := c.First()
		return k != nil
	}
	return slices.ContainsFunc(w.wanted, func(h *hook) bool {
		prefix := hookKey(h.no)
		k, _ := c.Seek(prefix)
		return bytes.HasPrefix(k, prefix)
	})
}

// firstOpen returns a number below which no delivery of the wanted is fresh. They are read in their order in the file:
// there may be many.
func (w *walk) firstOpen() uint64 {
	low := uint64(math.MaxUint64)
	c := w.file.cursor(bStat)
	k, v := c.Seek(hookKey(w.wanted[0].no))
	for _, h := range w.wanted {
		for k != nil && binary.BigEndian.Uint32(k) < h.no {
			k, v = c.Next()
		}
		if k == nil || binary.BigEndian.Uint32(k) != h.no {
			return 1
		}
		st, err := decodeStat(v)
		if err != nil {
			return 1
		}
		low = min(low, st.ended+1)
	}
	return low
}

func (w *walk) statusWays(statuses []postrider.Status) (ways []way) {
	for _, status := range statuses {
		if status == postrider.StatusNew {
			ways = append(ways, w.fresh()...)
		} else {
			ways = append(ways, w.odd(oddStatus, []byte{byte(status)})...)
		}
	}
	return ways
}

func (w *walk) codeWays(code string) []way {
	low, high := codeRange(code)
	return w.valueWays(oddCode, binary.BigEndian.AppendUint16(nil, low), binary.BigEndian.AppendUint16(nil, high))
}

// scopes returns the scopes of odd to look into.
func (w *walk) scopes() []uint32 {
	if len(w.wanted) == len(w.hooks) || len(w.wanted) > maxMerged {
		return []uint32{0}
	}
	scopes := make([]uint32, len(w.wanted))
	for i, h := range w.wanted {
		scopes[i] = h.no
	}
	return scopes
}

// odd passes the rows with a value of a dimension.
func (w *walk) odd(dimension byte, value ...[]byte) (ways []way) {
	for _, scope := range w.scopes() {
		ways = append(ways, newOddWay(w, oddPrefix(scope, dimension, slices.Concat(value...)...)))
	}
	return ways
}

// valueWays passes the rows with a value between two of a dimension.
func (w *walk) valueWays(dimension byte, from, to []byte) (ways []way) {
	c := w.file.top.Bucket(nameOf[bOdd]).Cursor()
	for _, scope := range w.scopes() {
		begin := oddPrefix(scope, dimension)
		for value := from; value != nil && bytes.Compare(value, to) <= 0; {
			k, _ := c.Seek(append(slices.Clone(begin), value...))
			if !bytes.HasPrefix(k, begin) {
				break
			}
			value = slices.Clone(k[len(begin) : len(k)-12])
			if bytes.Compare(value, to) <= 0 {
				ways = append(ways, newOddWay(w, append(slices.Clone(begin), value...)))
			}
			value = increment(value)
		}
	}
	return ways
}

// increment returns the next value of the same length, nil if there is none.
func increment(value []byte) []byte {
	for i := len(value) - 1; i >= 0; i-- {
		if value[i]++; value[i] != 0 {
			return value
		}
	}
	return nil
}

// eventWays passes the deliveries of an event and of its replays, in every project that has one with that ID.
func (w *walk) eventWays() []way {
	id := append([]byte(w.plan.EventID), 0)
	var seqs []uint64
	c := w.file.top.Bucket(nameOf[bKey]).Cursor()
	for k, v := c.Seek(id); bytes.HasPrefix(k, id); k, v = c.Next() {
		seqs = append(seqs, binary.BigEndian.Uint64(v))
	}
	ways := []way{newEventWay(w, seqs)}
	c = w.file.top.Bucket(nameOf[bAgain]).Cursor()
	for k, _ := c.Seek(id); bytes.HasPrefix(k, id); {
		prefix := slices.Clone(k[:len(k)-seqSize])
		ways = append(ways, newReplayWay(w, prefix))
		k, _ = c.Seek(increment(slices.Clone(prefix)))
	}
	return ways
}

func (w *walk) stat(no uint32) stat {
	st, ok := w.stats[no]
	if !ok {
		if v := w.file.get(bStat, hookKey(no)); v != nil {
			st, _ = decodeStat(v)
		}
		w.stats[no] = st
	}
	return st
}

// delivery reads a delivery with its attempts; nil if the query does not select it or it was pruned.
func (w *walk) delivery(p position) (*postrider.Delivery, []postrider.Attempt, error) {
	if p.hook == 0 || int(p.hook) > len(w.hooks) {
		return nil, nil, nil
	}
	h := w.hooks[p.hook-1]
	w.s.mu.Lock()
	allowed, webhook := w.allows(h), h.webhook
	w.s.mu.Unlock()
	if !allowed {
		return nil, nil, nil
	}
	w.left -= costDone - 1
	r := row{seq: p.seq, hook: p.hook, webhook: webhook, brief: true}
	if _, err := r.read(w.file, false, true); err != nil {
		return nil, nil, err
	}
	status := postrider.StatusNew
	if r.ended != nil {
		status = r.ended.status
	} else if p.seq <= w.stat(p.hook).flushed && !w.file.has(bBy, byKey(p.hook, p.seq)) {
		return nil, nil, nil
	}
	if len(w.plan.Statuses) > 0 && !slices.Contains(w.plan.Statuses, status) {
		return nil, nil, nil
	}
	if ok, err := w.tried(r.ended); err != nil || !ok {
		return nil, nil, err
	}
	w.left -= costRow - costDone
	if ok, err := r.read(w.file, true, false); err != nil || !ok {
		return nil, nil, err
	}
	d, attempts, err := r.delivery(w.s.mask)
	if err != nil || !w.plan.Matches(&d) {
		return nil, nil, err
	}
	return &d, attempts, nil
}

// tried reports whether the query may select a delivery with this done row, nil if it has none, by what is in the row
// alone: to read the event too takes longer.
func (w *walk) tried(e *ended) (bool, error) {
	if e == nil {
		return w.plan.attempt == nil && w.plan.MinAttempts == 0 && w.hasCode(0), nil
	}
	if e.attempts < uint64(w.plan.MinAttempts) || !w.hasCode(e.code) {
		return false, nil
	}
	if w.plan.attempt == nil {
		return true, nil
	}
	list, err := e.list("", "")
	if err != nil {
		return false, err
	}
	for i := range list {
		if w.plan.attempt(&list[i]) {
			return true, nil
		}
	}
	return false, nil
}

// hasCode reports whether a code is what the query asks for.
func (w *walk) hasCode(code uint64) bool {
	low, high := codeRange(w.plan.Code)
	return w.plan.Code == "" || code >= uint64(low) && code <= uint64(high)
}

// codeRange returns the first and the last code that the Code of a query selects.
func codeRange(code string) (low, high uint16) {
	switch {
	case code == "" || code == postrider.CodeNone:
		return 0, 0
	case code[1:] == "xx":
		low = uint16(code[0]-'0') * 100
		return low, low + 99
	}
	n := uint16(code[0]-'0')*100 + uint16(code[1]-'0')*10 + uint16(code[2]-'0')
	return n, n
}
