package bolt

import (
	"bytes"
	"encoding/binary"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
)

// reader gets values in one transaction, with one cursor a bucket: bbolt's own Get makes a cursor for each call.
type reader struct {
	top     *bbolt.Bucket
	cursors [len(nameOf)]*bbolt.Cursor
	key     []byte // the one that bbolt is looking for: a copy, so that those of callers stay on their stacks
	seq     uint64 // the last that record was asked for
}

// cursor returns the bucket's one cursor, which get and has move.
func (r *reader) cursor(b bucket) *bbolt.Cursor {
	if r.cursors[b] == nil {
		r.cursors[b] = r.top.Bucket(nameOf[b]).Cursor()
	}
	return r.cursors[b]
}

// get returns a value, valid within the transaction, nil if there is none.
func (r *reader) get(b bucket, key []byte) []byte {
	r.key = append(r.key[:0], key...)
	k, v := r.cursor(b).Seek(r.key)
	if !bytes.Equal(k, key) {
		return nil
	}
	return v
}

// record returns what is in bLog under a seq, as get does. What waits together is often stored together: to step to the
// next key costs much less than to look for it from the top. A cursor does not see what its transaction has changed since.
func (r *reader) record(seq uint64) []byte {
	key := seqKey(seq)
	next := r.seq != 0 && seq == r.seq+1 && !r.top.Writable()
	r.seq = seq
	if next {
		if k, v := r.cursor(bLog).Next(); bytes.Equal(k, key) {
			return v
		}
	}
	return r.get(bLog, key)
}

// has reports whether there is a key.
func (r *reader) has(b bucket, key []byte) bool { return r.get(b, key) != nil }

// row is a delivery as it stands in the file.
type row struct {
	seq     uint64
	hook    uint32
	webhook *postrider.Webhook
	flags   byte
	created int64
	origin  []byte // 16 bytes, of a replay
	event   postrider.Event
	ended   *ended // nil if it has no done row
	lane    lane   // zero if it has none
	parked  bool   // only find sets it
	brief   bool   // read leaves the event's payload out: it may be long, and no query shows it
}

// read fills the row in; ok is false if the event is gone. It may skip either part. What it keeps of ended is valid
// only within the transaction.
func (r *row) read(file *reader, event, done bool) (ok bool, err error) {
	if event {
		v := file.record(r.seq)
		if v == nil {
			return false, nil
		}
		x, err := decodeRecord(v)
		if err != nil {
			return false, err
		}
		to, ok := x.to(r.hook)
		if !ok {
			return false, nil
		}
		r.lane, _ = to.lane(x.hash)
		r.flags, r.created = x.flags, x.created
		r.origin = append([]byte(nil), x.origin...)
		record := x.event
		if r.brief {
			record = withoutPayload(make([]byte, 0, 256), record)
		}
		if err := r.event.UnmarshalBinary(record); err != nil {
			return false, err
		}
	}
	if done {
		if v := file.get(bDone, doneKey(r.seq, r.hook)); v != nil {
			e, err := decodeEnded(v)
			if err != nil {
				return false, err
			}
			r.ended = &e
		}
	}
	return true, nil
}

// withoutPayload appends to b the record of the same event with an empty payload. A record has its version first, then
// the length of the payload, and the payload last.
func withoutPayload(b, record []byte) []byte {
	if len(record) == 0 {
		return b
	}
	size, n := binary.Uvarint(record[1:])
	if n <= 0 || size > uint64(len(record)-1-n) {
		return append(b, record...) // it does not decode
	}
	b = append(b, record[0], 0)
	return append(b, record[1+n:len(record)-int(size)]...)
}

// delivery returns the row as callers see it, with its attempts. NextAt of a new delivery is its creation.
func (r *row) delivery(m mask) (d postrider.Delivery, attempts []postrider.Attempt, err error) {
	d = postrider.Delivery{
		ID:          m.deliveryID(r.created, r.seq, r.hook),
		EventID:     r.event.ID,
		Project:     r.event.Project,
		EventType:   r.event.Type,
		WebhookID:   r.webhook.ID,
		WebhookName: r.webhook.Name,
		Owner:       r.webhook.Owner,
		CreatedAt:   instant(r.created),
		NextAt:      instant(r.created),
		Test:        r.flags&flagTest != 0,
	}
	if len(r.origin) > 0 {
		d.ReplayOf = uuid.UUID(r.origin).String()
	}
	if r.ended == nil {
		return d, nil, nil
	}
	if attempts, err = r.ended.list(d.ID, d.WebhookID); err != nil {
		return d, nil, err
	}
	d.Status = r.ended.status
	d.Attempts = len(attempts)
	d.NextAt = instantOrZero(r.ended.due)
	d.FinishedAt = instantOrZero(r.ended.finished)
	for i := range attempts {
		a := &attempts[i]
		d.LastTook = a.FinishedAt.Sub(a.StartedAt)
		if a.Code != 0 {
			d.LastCode = a.Code
		}
		if a.Failed {
			d.LastClass, d.LastError = a.Class, a.Error
		}
	}
	return d, attempts, nil
}
