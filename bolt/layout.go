package bolt

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sort"
	"time"

	"github.com/google/uuid"

	"github.com/postrider/postrider"
)

// Format is the version of the layout that this package writes. It is stable from 1 on: a release reads the files of
// every one before it. A file of another format is left as it is.
const Format = 1

// The layout, append first: what an emit or a healthy outcome writes lands at the right edge of few trees. All of it
// is inside one top-level bucket. Numbers are big-endian, so that keys sort as numbers do.
//
//	log     seq8                  -> event with its payload and the webhooks it fans out to    once an Enqueue
//	key     event-id 0 project    -> seq8                                                      once an Enqueue
//	done    seq8 hook4            -> status, due, finished, attempts                           when an attempt ends
//	by      hook4 seq8            -> created8 type4, 1 if stored as parked                     behind, see carry
//	odd     scope dimension value seq8 hook4 -> -                                              not for the usual row, see oddKeys
//	retry   hook4 due8 seq8       -> -                                                         while IN_PROCESS, or promoted
//	cancel  seq8 hook4            -> -                                                         canceled while claimed
//	hook    hook4                 -> deleted1 webhook                                          on change
//	stat    hook4                 -> counters and marks, see stat                              once a touched webhook a commit
//	again   event-id 0 project 0 seq8 -> run16 or -                                            once a replay
//	lane    hook4 hash8 seq8      -> turn1                                                     while open, with an order only
//	tally   see tally.go          -> counts by time                                            once a webhook a minute, and for retries
//
// Beside the buckets stand two values: fixed (format and mask) and state (see state).
//
// A delivery is (seq, hook) and has no row of its own before its first attempt ends: it is NEW if its event's fan-out
// names the webhook and there is no done row. by tells a NEW delivery from a pruned one. A replay has a log record of
// its own, with a copy of the event, so that the two are pruned each in its time. Lanes are explained in lane.go.
var (
	rootName  = []byte("postrider")
	fixedKey  = []byte("\x00fixed")
	stateKey  = []byte("\x00state")
	nameOf    = [...][]byte{[]byte("log"), []byte("key"), []byte("done"), []byte("by"), []byte("retry"), []byte("cancel"), []byte("hook"), []byte("stat"), []byte("again"), []byte("odd"), []byte("lane"), []byte("tally")}
	fillOf    = [...]float64{1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9}
	errRecord = fmt.Errorf("%w: a record does not decode", postrider.ErrStore)
)

// bucket is an index into nameOf.
type bucket int

const (
	bLog bucket = iota
	bKey
	bDone
	bBy
	bRetry
	bCancel
	bHook
	bStat
	bAgain
	bOdd
	bLane
	bTally
)

const seqSize = 8

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, seqSize), seq) }

// eventKey begins with the ID: IDs that ascend with time then land at one edge, however many projects there are.
func eventKey(project, id string) []byte {
	return appendEventKey(make([]byte, 0, len(id)+1+len(project)), project, id)
}

func appendEventKey(b []byte, project, id string) []byte {
	return append(append(append(b, id...), 0), project...)
}

func againKey(project, id string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(eventKey(project, id), 0), seq)
}

func doneKey(seq uint64, hook uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(make([]byte, 0, 12), seq), hook)
}

func byKey(hook uint32, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(make([]byte, 0, 12), hook), seq)
}

func hookKey(hook uint32) []byte { return binary.BigEndian.AppendUint32(make([]byte, 0, 4), hook) }

// byLen is the length of a value of by, but for the byte that those stored as parked have at the end.
const byLen = 12

func parkedInBy(v []byte) bool { return len(v) > byLen }

// retryKey has the due time in microseconds; one before 1970 counts as 1970.
func retryKey(hook uint32, due int64, seq uint64) []byte {
	k := binary.BigEndian.AppendUint32(make([]byte, 0, 20), hook)
	k = binary.BigEndian.AppendUint64(k, uint64(max(due, 0)))
	return binary.BigEndian.AppendUint64(k, seq)
}

// splitDone reads a key of done or cancel.
func splitDone(k []byte) (seq uint64, hook uint32) {
	return binary.BigEndian.Uint64(k), binary.BigEndian.Uint32(k[8:])
}

// state is the small state of the whole store, written with every commit that moves it.
type state struct {
	seq     uint64 // the last number given to an event
	tail    uint64 // every delivery of an event below is in by
	created int64  // the last creation time, in microseconds
	hooks   uint32 // the last number given to a webhook
}

func (s state) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, s.seq)
	b = binary.BigEndian.AppendUint64(b, s.tail)
	b = binary.BigEndian.AppendUint64(b, uint64(s.created))
	return binary.BigEndian.AppendUint32(b, s.hooks)
}

// stateSize is how long the value of a state is.
const stateSize = 28

func decodeState(b []byte) (s state, err error) {
	if len(b) != stateSize {
		return s, errRecord
	}
	return state{
		seq:     binary.BigEndian.Uint64(b),
		tail:    binary.BigEndian.Uint64(b[8:]),
		created: int64(binary.BigEndian.Uint64(b[16:])),
		hooks:   binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// stat is what is counted of one webhook, and three marks that make a restart short. Of the whole store, webhook 0,
// only attempts are counted.
type stat struct {
	indexed uint64 // deliveries that were ever put into by
	count   [postrider.StatusFailed + 1]uint64
	pruned  uint64
	ok      uint64 // attempts
	failed  uint64
	flushed uint64 // the last seq of it in by
	ended   uint64 // every delivery of it at or below has a done row, or was stored as parked
	done    uint64 // no delivery of it above has one
	laned   uint64 // open ones with a lane, and
	parked  uint64 // those of them that are parked; both by what is in by, see hook.laned
	minute  span   // attempts of the last minute and hour that had any, see tally.go
	hour    span
}

func (s *stat) fields() [19]*uint64 {
	return [...]*uint64{
		&s.indexed, &s.count[postrider.StatusInProcess], &s.count[postrider.StatusDelivered], &s.count[postrider.StatusCanceled],
		&s.count[postrider.StatusFailed], &s.pruned, &s.ok, &s.failed, &s.flushed, &s.ended, &s.done,
		&s.laned, &s.parked, &s.minute.at, &s.minute.ok, &s.minute.failed, &s.hour.at, &s.hour.ok, &s.hour.failed,
	}
}

// statSize is how long the value of a stat is at most.
const statSize = 1 + 19*binary.MaxVarintLen64

func (s *stat) append(b []byte) []byte {
	b = append(b, Format)
	for _, f := range s.fields() {
		b = binary.AppendUvarint(b, *f)
	}
	return b
}

func decodeStat(b []byte) (s stat, err error) {
	if len(b) == 0 || b[0] != Format {
		return s, errRecord
	}
	b = b[1:]
	for _, f := range s.fields() {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return s, errRecord
		}
		*f, b = v, b[n:]
	}
	return s, nil
}

// A log value is flags1 created8 type4 n-varint target4*n [hash8 if with an order key] [origin16 if a replay] event.
// type4 is a hash: where it differs the type does.
const (
	flagTest   = 1 << 0
	flagReplay = 1 << 1
	flagKey    = 1 << 2
	createdAt  = 1  // offset of created8
	logHead    = 13 // bytes before n
)

// targetsAt returns the offset of n targets.
func targetsAt(n int) int { return logHead + (bits.Len(uint(n)|1)+6)/7 }

// typeHash returns the type4 of an event type (FNV-1a).
func typeHash(eventType string) uint32 {
	h := uint32(2166136261)
	for i := range len(eventType) {
		h = (h ^ uint32(eventType[i])) * 16777619
	}
	return h
}

// record is a log value. Its slices are those of the value it was read from.
type record struct {
	flags   byte
	created int64
	typ     uint32
	hooks   []byte // targets, in the order of the webhooks' numbers, 4 bytes each
	hash    uint64 // of the order key; 0: no lane but of webhooks that are Ordered
	origin  []byte // 16 bytes, of a replay: the ID of the delivery that is sent again
	event   []byte
}

func decodeRecord(v []byte) (r record, err error) {
	if len(v) <= logHead {
		return r, errRecord
	}
	r.flags, r.created, r.typ = v[0], int64(binary.BigEndian.Uint64(v[createdAt:])), binary.BigEndian.Uint32(v[createdAt+8:])
	n, size := binary.Uvarint(v[logHead:])
	v = v[logHead+max(size, 0):]
	if size <= 0 || n > uint64(len(v)/4) {
		return r, errRecord
	}
	r.hooks, v = v[:4*n], v[4*n:]
	if r.flags&flagKey != 0 {
		if len(v) < 8 {
			return r, errRecord
		}
		r.hash, v = binary.BigEndian.Uint64(v), v[8:]
	}
	if r.flags&flagReplay != 0 {
		if len(v) < len(uuid.UUID{}) {
			return r, errRecord
		}
		r.origin, v = v[:len(uuid.UUID{})], v[len(uuid.UUID{}):]
	}
	r.event = v
	return r, nil
}

func (r *record) len() int { return len(r.hooks) / 4 }

func (r *record) target(i int) target { return target(binary.BigEndian.Uint32(r.hooks[4*i:])) }

func (r *record) hook(i int) uint32 { return r.target(i).hook() }

// to returns what the record says of a webhook; ok is false if the event does not fan out to it.
func (r *record) to(hook uint32) (to target, ok bool) {
	i, ok := sort.Find(r.len(), func(i int) int { return cmp.Compare(hook, r.hook(i)) })
	if !ok {
		return 0, false
	}
	return r.target(i), true
}

// lane returns the lane of a webhook's delivery; ok is false if it has none.
func (r *record) lane(hook uint32) (l lane, ok bool) {
	to, ok := r.to(hook)
	if !ok {
		return l, false
	}
	return to.lane(r.hash)
}

// oddKeys returns the keys that a delivery of the event has from the start.
func (r *record) oddKeys(seq uint64, hook uint32) (keys [][]byte) {
	place := doneKey(seq, hook)
	for _, scope := range []uint32{0, hook} {
		if r.flags&flagTest != 0 {
			keys = append(keys, append(oddPrefix(scope, oddTest), place...))
		}
		if r.flags&flagReplay != 0 {
			keys = append(keys, append(oddPrefix(scope, oddReplay, r.origin...), place...))
		}
	}
	return keys
}

// ended is a done value: status1 code-varint due-varint finished-varint n-varint (length-varint attempt)*n. Times are
// in microseconds; 0 is none.
type ended struct {
	status   postrider.Status
	code     uint64 // Delivery.LastCode
	due      int64
	finished int64
	attempts uint64
	raw      []byte // the attempts
	latest   []byte // the one after them, if it was added
}

func (e *ended) append(b []byte) []byte {
	b = append(b, byte(e.status))
	b = binary.AppendUvarint(b, e.code)
	b = binary.AppendVarint(b, e.due)
	b = binary.AppendVarint(b, e.finished)
	b = binary.AppendUvarint(b, e.attempts)
	b = append(b, e.raw...)
	if e.latest != nil {
		b = append(binary.AppendUvarint(b, uint64(len(e.latest))), e.latest...)
	}
	return b
}

// size returns how long the value is at most.
func (e *ended) size() int { return 1 + 5*binary.MaxVarintLen64 + len(e.raw) + len(e.latest) }

func decodeEnded(v []byte) (e ended, err error) {
	if len(v) == 0 || v[0] > byte(postrider.StatusFailed) {
		return e, errRecord
	}
	e.status, v = postrider.Status(v[0]), v[1:]
	var n [4]int
	e.code, n[3] = binary.Uvarint(v)
	v = v[max(n[3], 0):]
	e.due, n[0] = binary.Varint(v)
	v = v[max(n[0], 0):]
	e.finished, n[1] = binary.Varint(v)
	v = v[max(n[1], 0):]
	e.attempts, n[2] = binary.Uvarint(v)
	v = v[max(n[2], 0):]
	if min(n[0], n[1], n[2], n[3]) <= 0 || e.attempts > uint64(len(v)) {
		return e, errRecord
	}
	e.raw = v
	return e, nil
}

// add appends an attempt's record.
func (e *ended) add(attempt []byte) {
	e.attempts++
	e.latest = attempt
}

// usual reports whether the row is as most are: delivered at the first attempt with a 2xx.
func (e *ended) usual() bool {
	return e.status == postrider.StatusDelivered && e.attempts == 1 && e.code >= 200 && e.code <= 299
}

// Dimensions of odd. Every row that is not usual has one key for each of the first three; test deliveries and replays
// have one for theirs, and begin with it.
const (
	oddStatus   = 's' // status1
	oddCode     = 'c' // code2
	oddAttempts = 'a' // attempts1, at most 255
	oddTest     = 't'
	oddReplay   = 'r' // origin16
)

// oddPrefix begins the keys of one value of a dimension: of a webhook, or, with 0, of all.
func oddPrefix(hook uint32, dimension byte, value ...byte) []byte {
	k := binary.BigEndian.AppendUint32(make([]byte, 0, 5+len(value)+12), hook)
	return append(append(k, dimension), value...)
}

// oddKeys returns the keys of a done row, none if it is usual.
func (e *ended) oddKeys(seq uint64, hook uint32) (keys [][]byte) {
	if e.usual() {
		return nil
	}
	place := doneKey(seq, hook)
	for _, scope := range []uint32{0, hook} {
		keys = append(keys,
			append(oddPrefix(scope, oddStatus, byte(e.status)), place...),
			append(oddPrefix(scope, oddCode, byte(e.code>>8), byte(e.code)), place...),
			append(oddPrefix(scope, oddAttempts, byte(min(e.attempts, 255))), place...))
	}
	return keys
}

// list decodes the attempts.
func (e *ended) list(deliveryID, webhookID string) ([]postrider.Attempt, error) {
	list := make([]postrider.Attempt, e.attempts)
	v := e.raw
	for i := range list {
		size, n := binary.Uvarint(v)
		if n <= 0 || size > uint64(len(v)-n) {
			return nil, errRecord
		}
		list[i].DeliveryID, list[i].WebhookID = deliveryID, webhookID
		if err := list[i].UnmarshalBinary(v[n : n+int(size)]); err != nil {
			return nil, fmt.Errorf("%w: %w", postrider.ErrStore, err)
		}
		v = v[n+int(size):]
	}
	return list, nil
}

func instant(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// instantOrZero is instant, with 0 for the zero time.
func instantOrZero(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return instant(micros)
}

// instantOf cuts a time to what the codec keeps.
func instantOf(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return instant(t.UnixMicro())
}

// maxSeq is what fits into a delivery's ID.
const maxSeq = 1<<42 - 1

// mask hides seq and webhook in the IDs of deliveries, so that they do not count events for whoever sees them, and
// makes those of two files differ.
type mask struct {
	high uint16 // 12 bits
	low  uint64 // 62 bits
}

// deliveryID packs a delivery into the 74 bits of a UUIDv7 (RFC 9562, section 5.7) that are not time: no index of IDs
// is needed.
func (m mask) deliveryID(created int64, seq uint64, hook uint32) string {
	high := uint16(seq>>30)&0xfff ^ m.high
	low := (seq&(1<<30-1))<<32 | uint64(hook)
	low ^= m.low
	var u uuid.UUID
	ms := uint64(max(created/1000, 0))
	binary.BigEndian.PutUint64(u[:8], ms<<16|0x7000|uint64(high))
	binary.BigEndian.PutUint64(u[8:], 1<<63|low)
	return u.String()
}

// split reverses deliveryID; ok is false for what cannot be an ID of this file. The caller compares ms with the
// record's creation.
func (m mask) split(id string) (ms int64, seq uint64, hook uint32, ok bool) {
	u, err := uuid.Parse(id)
	if err != nil || u.String() != id || u.Version() != 7 || u.Variant() != uuid.RFC4122 {
		return 0, 0, 0, false
	}
	first, second := binary.BigEndian.Uint64(u[:8]), binary.BigEndian.Uint64(u[8:])
	high := uint16(first)&0xfff ^ m.high
	low := second&(1<<62-1) ^ m.low
	return int64(first >> 16), uint64(high)<<30 | low>>32, uint32(low), true
}
