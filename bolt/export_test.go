package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
)

// Entries returns how many entries each bucket of the file has.
func (s *Store) Entries() map[string]int {
	n := map[string]int{}
	_ = s.db.View(func(tx *bbolt.Tx) error {
		for _, name := range nameOf {
			n[string(name)] = tx.Bucket(rootName).Bucket(name).Inspect().KeyN
		}
		return nil
	})
	return n
}

// Tallies returns how many rows of each kind tally has.
func (s *Store) Tallies() map[byte]int {
	n := map[byte]int{}
	_ = s.view(func(file *reader) error {
		return file.top.Bucket(nameOf[bTally]).ForEach(func(k, _ []byte) error {
			n[k[0]]++
			return nil
		})
	})
	return n
}

// Written returns how many rows of each bucket f adds, changes or deletes.
func (s *Store) Written(f func()) map[string]int {
	rows := func() map[string]string {
		all := map[string]string{}
		_ = s.view(func(file *reader) error {
			for _, name := range nameOf {
				_ = file.top.Bucket(name).ForEach(func(k, v []byte) error {
					all[string(name)+" "+string(k)] = string(v)
					return nil
				})
			}
			return nil
		})
		return all
	}
	before := rows()
	f()
	n := map[string]int{}
	count := func(row string) {
		name, _, _ := strings.Cut(row, " ")
		n[name]++
	}
	after := rows()
	for row, v := range after {
		if old, ok := before[row]; !ok || old != v {
			count(row)
		}
	}
	for row := range before {
		if _, ok := after[row]; !ok {
			count(row)
		}
	}
	return n
}

// Young returns how many deliveries are not in by yet.
func (s *Store) Young() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.young
}

// Check compares everything in the file, and what memory has of it, with the two buckets that the rest follows from,
// log and done. It must be called while nothing else is.
//
//	K1 The deliveries are what log names, but for those that were pruned: they are neither in done nor in by, though
//	   by has taken all up to stat.flushed of their webhook.
//	K2 by has every other delivery up to stat.flushed and nothing else; young has those above.
//	K3 key has each event's ID and leads to its record, or to a replay's once that was pruned; again has each replay.
//	K4 odd has the keys that follow from each delivery's record and row, retry one for each that waits, cancel only
//	   open deliveries.
//	K5 The counters are what a scan counts, and the marks ended and done hold.
//	K6 No bucket has anything besides.
//	K7 lane has each open delivery with a lane: the first of each has its turn, which the record says it had from the
//	   start or retry says it has now, and all others are parked.
//	K8 tally has the retries by minute, of each webhook and of all; what it and stat have of a minute or hour of the
//	   whole store is the sum of the webhooks'.
func (s *Store) Check() error {
	c := &checker{s: s, want: map[bucket]map[string]string{}, counts: map[uint32]*tallied{}}
	for b := range nameOf {
		c.want[bucket(b)] = map[string]string{}
	}
	err := s.view(func(file *reader) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.file = file
		for _, h := range s.hooks {
			c.counts[h.no] = &tallied{marks: h.stat}
		}
		c.log()
		c.rows()
		c.lanes()
		c.hooks()
		for _, b := range []bucket{bKey, bDone, bBy, bOdd, bRetry, bAgain, bLane} {
			c.bucket(b)
		}
		c.tally()
		return nil
	})
	return errors.Join(append(c.found, err)...)
}

type checker struct {
	s      *Store
	file   *reader
	found  []error
	want   map[bucket]map[string]string // what must be in each bucket; "*" is any value
	counts map[uint32]*tallied
	line   []waiter // with a lane, in the order of commits
}

// waiter is a delivery with a lane, open or not.
type waiter struct {
	seq     uint64
	no      uint32
	created int64
	lane    lane
}

// tallied is what a scan counts of a webhook.
type tallied struct {
	marks      stat // as in memory
	by         uint64
	status     [5]uint64
	ok, failed uint64
	young      []uint64

	laned, parked uint64
}

func (c *checker) wrong(format string, args ...any) {
	if len(c.found) < 20 {
		c.found = append(c.found, fmt.Errorf(format, args...))
	}
}

// log goes through the events.
func (c *checker) log() {
	created := int64(0)
	keyed := map[string][]uint64{} // records of each event, replays too
	_ = c.file.top.Bucket(nameOf[bLog]).ForEach(func(k, v []byte) error {
		seq := binary.BigEndian.Uint64(k)
		r, err := decodeRecord(v)
		var e postrider.Event
		if err == nil {
			err = e.UnmarshalBinary(r.event)
		}
		if err != nil {
			c.wrong("log %d: %v", seq, err)
			return nil
		}
		if r.created < created {
			c.wrong("log %d was made at %d, the one before at %d", seq, r.created, created)
		}
		created = r.created
		if seq > c.s.state.seq {
			c.wrong("log %d, state has %d", seq, c.s.state.seq)
		}
		if r.typ != typeHash(e.Type) {
			c.wrong("log %d has the hash of another type than %s", seq, e.Type)
		}
		id := e.ID + "\x00" + e.Project
		if r.flags&flagReplay != 0 {
			c.want[bAgain][id+"\x00"+string(k)] = "*"
		}
		keyed[id] = append(keyed[id], seq)
		if r.flags&flagReplay == 0 {
			keyed[id] = append(keyed[id], 0) // the event itself is there
			c.want[bKey][id] = string(k)
		}
		there := false
		last := uint32(0)
		for i := range r.len() {
			no := r.hook(i)
			if c.counts[no] == nil {
				c.wrong("log %d names webhook %d", seq, no)
				continue
			}
			if no <= last {
				c.wrong("log %d names webhook %d after %d", seq, no, last)
			}
			last = no
			there = c.delivery(seq, no, &r) || there
		}
		if !there {
			c.wrong("log %d has no delivery left", seq)
		}
		return nil
	})
	for id, seqs := range keyed {
		if !slices.Contains(seqs, 0) {
			at := c.file.get(bKey, []byte(id))
			if at == nil || !slices.Contains(seqs, binary.BigEndian.Uint64(at)) {
				c.wrong("key of %q is %x, its replays are %d", id, at, seqs)
			}
			c.want[bKey][id] = string(at)
		}
	}
}

// delivery notes what follows from a delivery, and reports whether it is there.
func (c *checker) delivery(seq uint64, no uint32, r *record) bool {
	t := c.counts[no]
	place := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, seq), no)
	by := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, no), seq)
	done := c.file.get(bDone, place)
	if inBy := c.file.has(bBy, by); seq <= t.marks.flushed && !inBy {
		if done != nil {
			c.wrong("delivery %d/%d has a done row and is not in by", seq, no)
		}
		return false // pruned
	}
	if seq <= t.marks.flushed {
		v := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, uint64(r.created)), r.typ)
		if l, ok := r.lane(no); ok && l.parked {
			v = append(v, 1)
		}
		c.want[bBy][string(by)] = string(v)
		t.by++
	} else {
		t.young = append(t.young, seq)
		if seq < c.s.state.tail {
			c.wrong("delivery %d/%d is not in by, the tail is %d", seq, no, c.s.state.tail)
		}
	}
	if r.flags&flagTest != 0 {
		c.odd(no, 't', nil, place)
	}
	if r.flags&flagReplay != 0 {
		c.odd(no, 'r', r.origin, place)
	}
	l, laned := r.lane(no)
	if l.parked && !laned {
		c.wrong("delivery %d/%d is parked without a lane", seq, no)
	}
	if laned {
		c.line = append(c.line, waiter{seq, no, r.created, l})
	}
	if done == nil {
		t.status[postrider.StatusNew]++
		if l.parked {
			c.odd(no, 's', []byte{0}, place)
		} else if seq <= t.marks.ended {
			c.wrong("delivery %d/%d has no done row, all up to %d have", seq, no, t.marks.ended)
		}
		return true
	}
	c.want[bDone][string(place)] = "*"
	if seq > t.marks.done {
		c.wrong("delivery %d/%d has a done row, none above %d has", seq, no, t.marks.done)
	}
	return true
}

// odd notes a key of odd in both scopes.
func (c *checker) odd(no uint32, dimension byte, value, place []byte) {
	for _, scope := range []uint32{0, no} {
		k := append(binary.BigEndian.AppendUint32(nil, scope), dimension)
		c.want[bOdd][string(append(append(k, value...), place...))] = ""
	}
}

// rows goes through the done rows.
func (c *checker) rows() {
	for place := range c.want[bDone] {
		seq, no := splitDone([]byte(place))
		t := c.counts[no]
		e, err := decodeEnded(c.file.get(bDone, []byte(place)))
		var attempts []postrider.Attempt
		if err == nil {
			attempts, err = e.list("d", "w")
		}
		if err != nil {
			c.wrong("done %d/%d: %v", seq, no, err)
			continue
		}
		t.status[e.status]++
		if e.status == postrider.StatusNew || e.status.Final() != (e.finished != 0) || e.status.Final() == (e.due != 0) {
			c.wrong("done %d/%d: %s, due %d, finished %d", seq, no, e.status, e.due, e.finished)
		}
		if e.status == postrider.StatusInProcess {
			c.want[bRetry][string(retryKey(no, e.due, seq))] = ""
		}
		code := 0
		for i, a := range attempts {
			if a.Number != i+1 {
				c.wrong("done %d/%d: attempt %d has the number %d", seq, no, i+1, a.Number)
			}
			if a.Code != 0 {
				code = a.Code
			}
			if a.Failed {
				t.failed++
			} else {
				t.ok++
			}
		}
		if int(e.code) != code {
			c.wrong("done %d/%d: code %d, want %d", seq, no, e.code, code)
		}
		if e.status != postrider.StatusDelivered || len(attempts) != 1 || code/100 != 2 {
			c.odd(no, 's', []byte{byte(e.status)}, []byte(place))
			c.odd(no, 'c', []byte{byte(code >> 8), byte(code)}, []byte(place))
			c.odd(no, 'a', []byte{byte(min(len(attempts), 255))}, []byte(place))
		}
	}
	_ = c.file.top.Bucket(nameOf[bCancel]).ForEach(func(k, _ []byte) error {
		seq, no := splitDone(k)
		if v := c.file.get(bDone, k); v != nil && postrider.Status(v[0]).Final() {
			c.wrong("cancel %d/%d has ended", seq, no)
		}
		return nil
	})
}

// lanes goes through the deliveries with a lane.
func (c *checker) lanes() {
	last := map[string]bool{}
	for _, d := range c.line {
		status := postrider.StatusNew
		if v := c.file.get(bDone, doneKey(d.seq, d.no)); v != nil {
			status = postrider.Status(v[0])
		}
		if status.Final() {
			continue
		}
		k := laneKey(d.no, d.lane.hash, d.seq)
		v := string(c.file.get(bLane, k))
		waits := last[string(k[:12])]
		last[string(k[:12])] = true
		want := "\x00"
		switch {
		case waits && !d.lane.parked:
			c.wrong("delivery %d/%d was stored as the first, and is not", d.seq, d.no)
		case waits:
			want = "\x01"
			c.counts[d.no].parked++
			if status != postrider.StatusNew {
				c.wrong("delivery %d/%d is parked and %s", d.seq, d.no, status)
			}
		case d.lane.parked:
			want = "\x02"
			if status == postrider.StatusNew {
				c.want[bRetry][string(retryKey(d.no, d.created, d.seq))] = ""
			}
		}
		c.want[bLane][string(k)] = want
		c.counts[d.no].laned++
		if v != want {
			c.wrong("delivery %d/%d has the turn %x, want %x", d.seq, d.no, v, want)
		}
	}
}

// hooks compares the counters.
func (c *checker) hooks() {
	young := 0
	for _, h := range c.s.hooks {
		t, st := c.counts[h.no], h.stat
		var stored stat
		if v := c.file.get(bStat, hookKey(h.no)); v != nil {
			stored, _ = decodeStat(v)
		}
		if stored != st {
			c.wrong("webhook %d: %+v in the file, %+v in memory", h.no, stored, st)
		}
		if t.by != st.indexed-st.pruned {
			c.wrong("webhook %d: %d in by, counted %d less %d", h.no, t.by, st.indexed, st.pruned)
		}
		for status := postrider.StatusInProcess; status <= postrider.StatusFailed; status++ {
			if t.status[status] != st.count[status] {
				c.wrong("webhook %d: %d are %s, counted %d", h.no, t.status[status], status, st.count[status])
			}
		}
		if h.laned() != t.laned || h.parked() != t.parked {
			c.wrong("webhook %d: %d have a lane and %d are parked, counted %d and %d", h.no, t.laned, t.parked, h.laned(), h.parked())
		}
		var sum postrider.Stats
		h.addTo(&sum)
		if uint64(sum.New) != t.status[postrider.StatusNew] {
			c.wrong("webhook %d: %d are NEW, counted %d", h.no, t.status[postrider.StatusNew], sum.New)
		}
		if t.ok > st.ok || t.failed > st.failed || st.pruned == 0 && (t.ok < st.ok || t.failed < st.failed) {
			c.wrong("webhook %d: %d and %d attempts, counted %d and %d", h.no, t.ok, t.failed, st.ok, st.failed)
		}
		var seqs []uint64
		for _, a := range h.young {
			seqs = append(seqs, a.Seq)
		}
		if !slices.Equal(seqs, t.young) {
			c.wrong("webhook %d: young has %d from %v, log %d from %v", h.no, len(seqs), seqs[:min(len(seqs), 3)], len(t.young), t.young[:min(len(t.young), 3)])
		}
		young += len(seqs)
	}
	if young != c.s.young {
		c.wrong("%d are young, counted %d", young, c.s.young)
	}
}

// tally compares the counts by time.
func (c *checker) tally() {
	due := map[string]int{}
	for row := range c.want[bRetry] {
		k := []byte(row)
		no, at, seq := binary.BigEndian.Uint32(k), since(int64(binary.BigEndian.Uint64(k[4:])), minute), binary.BigEndian.Uint64(k[12:])
		if !c.file.has(bDone, doneKey(seq, no)) {
			continue // promoted
		}
		due[string(dueKey(0, at))]++
		due[string(dueKey(no, at))]++
	}
	first := map[byte]uint64{tallyMinute: oldest(max(since(c.s.micros(), minute), c.s.all.stat.minute.at), keepMinutes),
		tallyHour: oldest(max(since(c.s.micros(), hour), c.s.all.stat.hour.at), keepHours)}
	sums := map[string]*[2]span{} // by kind and time: of the whole store, of all webhooks
	count := func(kind byte, at uint64, no uint32, n span) {
		k := string(spanKey(kind, at, 0))
		if sums[k] == nil {
			sums[k] = &[2]span{}
		}
		sum := &sums[k][min(no, 1)]
		sum.ok += n.ok
		sum.failed += n.failed
	}
	if v := c.file.get(bStat, hookKey(0)); v != nil {
		if stored, err := decodeStat(v); err != nil || stored != c.s.all.stat {
			c.wrong("whole store: %+v in the file, %+v in memory, %v", stored, c.s.all.stat, err)
		}
	}
	for _, h := range append([]*hook{c.s.all}, c.s.hooks...) {
		count(tallyMinute, h.stat.minute.at, h.no, h.stat.minute)
		count(tallyHour, h.stat.hour.at, h.no, h.stat.hour)
	}
	_ = c.file.top.Bucket(nameOf[bTally]).ForEach(func(k, v []byte) error {
		kind := k[0]
		if kind == tallyDue {
			if n, _ := binary.Uvarint(v); n == 0 || int(n) != due[string(k)] {
				c.wrong("tally has %d retries in %x, retry %d", n, k, due[string(k)])
			}
			delete(due, string(k))
			return nil
		}
		_, at, no := splitSpan(k)
		var n span
		n.add(v)
		if len(k) != 13 || kind != tallyMinute && kind != tallyHour || int(no) > len(c.s.hooks) || n == (span{}) {
			c.wrong("tally has %x with %x", k, v)
		}
		count(kind, at, no, n)
		return nil
	})
	for k, n := range due {
		c.wrong("tally lacks %x, %d retries", k, n)
	}
	for k, sum := range sums {
		if kind, at, _ := splitSpan([]byte(k)); at >= first[kind] && sum[0] != sum[1] {
			c.wrong("tally of %c %d: %+v of the whole store, %+v of the webhooks", kind, at, sum[0], sum[1])
		}
	}
}

// bucket compares a bucket with what must be in it.
func (c *checker) bucket(b bucket) {
	left := maps.Clone(c.want[b])
	_ = c.file.top.Bucket(nameOf[b]).ForEach(func(k, v []byte) error {
		want, ok := left[string(k)]
		switch {
		case !ok:
			c.wrong("%s has %s, which follows from nothing", nameOf[b], show(b, k))
		case want != "*" && !bytes.Equal(v, []byte(want)):
			c.wrong("%s has %s with %x, want %x", nameOf[b], show(b, k), v, want)
		}
		delete(left, string(k))
		return nil
	})
	for k := range left {
		c.wrong("%s lacks %s", nameOf[b], show(b, []byte(k)))
	}
}

func show(b bucket, k []byte) string {
	switch {
	case b == bOdd && len(k) >= 17:
		seq, no := splitDone(k[len(k)-12:])
		value := fmt.Sprintf("%x", k[5:len(k)-12])
		if k[4] == 'r' {
			value = uuid.UUID(k[5 : len(k)-12]).String()
		}
		return fmt.Sprintf("%c %s of %d/%d in %d", k[4], value, seq, no, binary.BigEndian.Uint32(k))
	case b == bDone:
		seq, no := splitDone(k)
		return fmt.Sprintf("%d/%d", seq, no)
	}
	return fmt.Sprintf("%q", k)
}

// Walk says where the walk over a webhook's fresh deliveries is, and whether the next claim has to read from the file.
func (s *Store) Walk(webhookID string) (next uint64, reads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.byID[webhookID]
	return h.fresh.next, h.fresh.behind || h.later.short()
}

// Ended returns the mark below which nothing is looked at after a restart.
func (s *Store) Ended(webhookID string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[webhookID].stat.ended
}

// LastSeq returns the number of the last event.
func (s *Store) LastSeq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.seq
}
