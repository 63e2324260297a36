package bolt

import (
	"encoding/binary"
	"maps"

	"github.com/postrider/postrider"
)

// letter is an item on its way into the file.
type letter struct {
	project   string
	id        string
	cached    *cached   // with Payload in value; nil: nobody wants the event
	audience  *audience // what targets was matched against; nil if To said so or there is none
	targets   []target
	one       [1]target // room for targets, which mostly suffices
	to        []string
	replayOf  string
	run       []byte // 16 bytes; nil: none
	hash      uint64 // of the order key; 0: none that counts
	lanes     bool   // some of its deliveries have one
	flags     byte
	typ       uint32 // the hash of eventType
	eventType string
	room      int    // bytes of value that are kept for the head
	value     []byte // room, and the event's record

	key    []byte
	seq    uint64 // 0: not stored
	origin []byte
}

// match finds the webhooks that a letter goes to, unless its To says so.
func (l *letter) match(eventType string) {
	if l.to != nil {
		l.audience = nil
		return
	}
	l.targets, l.lanes = l.one[:0], false
	if l.audience != nil {
		l.audience.matching(eventType, l.add)
	}
}

// add adds a webhook to those that the letter goes to.
func (l *letter) add(to listener) {
	t := target(to.no)
	if to.webhook.Ordered && l.flags&(flagTest|flagReplay) == 0 {
		t |= targetOwn
	}
	l.targets = append(l.targets, t)
	l.lanes = l.lanes || l.hash != 0 || t&targetOwn != 0
}

// encode makes the log value, but for its head.
func (l *letter) encode(e *postrider.Event) {
	v, _ := e.AppendBinary(make([]byte, l.room, l.valueSize(e))) // never fails
	l.value = v
	l.cached = &cached{event: *e, size: cap(v) + cachedSize}
	own := &l.cached.event
	if own.Payload = v[len(v)-len(e.Payload):]; len(e.Payload) == 0 {
		own.Payload = nil
	}
	own.Metadata = maps.Clone(e.Metadata)
	own.Time = instantOf(e.Time)
}

// valueSize returns how long the log value is at most, but for metadata. Little more is asked for: it is much of what
// a batch leaves to the garbage collector.
func (l *letter) valueSize(e *postrider.Event) int {
	const lengths = 32 // and the version and the time
	return l.room + lengths + len(e.Payload) + len(e.ID) + len(e.Project) + len(e.Type) + len(e.ContentType) + len(e.OrderKey)
}

// head writes what comes before the event in a log value.
func (l *letter) head(created int64) {
	if n := l.headSize(len(l.targets)); n != l.room { // the webhooks have changed, or it is a replay
		l.value = append(make([]byte, n, n+len(l.value)-l.room), l.value[l.room:]...)
		l.room = n
	}
	v := append(l.value[:0], l.flags)
	v = binary.BigEndian.AppendUint64(v, uint64(created))
	v = binary.BigEndian.AppendUint32(v, l.typ)
	v = binary.AppendUvarint(v, uint64(len(l.targets)))
	for _, to := range l.targets {
		v = binary.BigEndian.AppendUint32(v, uint32(to))
	}
	if l.hash != 0 {
		v = binary.BigEndian.AppendUint64(v, l.hash)
	}
	_ = append(v, l.origin...)
}

// headSize returns how long the head is for n webhooks.
func (l *letter) headSize(n int) int {
	size := targetsAt(n) + 4*n + len(l.origin)
	if l.hash != 0 {
		size += 8
	}
	return size
}
