package postrider

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"time"
)

// The binary form of webhooks, events and attempts, which every store uses. A value is a version byte and its fields
// in the order of the struct, without names: numbers are varints, strings and lists carry their length, a time is
// microseconds since 1970 in UTC. The one large field of a value, payload or body, comes last and fills the rest, so
// that everything before it is decoded from one string. Decoding copies: it keeps nothing of its argument.
//
// A new field goes to the end of the head under a new version; decoding knows every version that was released.
const codecVersion = 1

var errCorrupt = errors.New("postrider: record does not decode")

// AppendBinary appends the event's binary form to b. It never fails.
func (e Event) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, codecVersion)
	b = binary.AppendUvarint(b, uint64(len(e.Payload)))
	b = appendString(b, e.ID)
	b = appendString(b, e.Project)
	b = appendString(b, e.Type)
	b = appendTime(b, e.Time)
	b = appendString(b, e.ContentType)
	b = appendMap(b, e.Metadata)
	b = appendString(b, e.OrderKey)
	return append(b, e.Payload...), nil
}

// UnmarshalBinary sets the event to what AppendBinary wrote, or returns an error and leaves it undefined.
func (e *Event) UnmarshalBinary(data []byte) error {
	d, tail := newDecoder(data)
	*e = Event{
		ID:          d.string(),
		Project:     d.string(),
		Type:        d.string(),
		Time:        d.time(),
		ContentType: d.string(),
		Metadata:    d.stringMap(),
		OrderKey:    d.string(),
		Payload:     tail,
	}
	return d.end("event")
}

// AppendBinary appends the attempt's binary form, without DeliveryID and WebhookID, to b. It never fails.
func (a Attempt) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, codecVersion)
	b = binary.AppendUvarint(b, uint64(len(a.Body)))
	b = appendInt(b, a.Number)
	b = appendTime(b, a.StartedAt)
	b = binary.AppendVarint(b, a.FinishedAt.UnixMicro()-a.StartedAt.UnixMicro())
	b = binary.AppendVarint(b, a.Timestamp)
	b = appendBool(b, a.Failed)
	b = appendInt(b, a.Code)
	b = append(b, byte(a.Class))
	b = appendString(b, a.Error)
	b = appendBool(b, a.Truncated)
	b = appendTime(b, a.NextAt)
	return append(b, a.Body...), nil
}

// UnmarshalBinary sets the attempt to what AppendBinary wrote and leaves DeliveryID and WebhookID as they are.
func (a *Attempt) UnmarshalBinary(data []byte) error {
	d, tail := newDecoder(data)
	a.Number = d.int()
	a.StartedAt = d.time()
	a.FinishedAt = a.StartedAt.Add(d.microseconds())
	a.Timestamp = d.varint()
	a.Failed = d.bool()
	a.Code = d.int()
	a.Class = Class(d.byte())
	a.Error = d.string()
	a.Truncated = d.bool()
	a.NextAt = d.time()
	a.Body = tail
	return d.end("attempt")
}

// AppendBinary appends the webhook's binary form, secrets included, to b. It never fails.
func (w Webhook) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, codecVersion, 0)
	for _, s := range []string{w.ID, w.Project, w.Name, w.Owner, w.URL, w.Method} {
		b = appendString(b, s)
	}
	b = appendInt(b, len(w.Header))
	for _, name := range slices.Sorted(maps.Keys(w.Header)) {
		b = appendList(appendString(b, name), w.Header[name])
	}
	b = appendList(b, w.Events)
	b = appendInt(b, len(w.Secrets))
	for _, s := range w.Secrets {
		b = appendTime(appendString(b, s.text), s.ExpiresAt)
	}
	b = appendList(b, w.Schemes)
	b = appendInt(b, len(w.Retry))
	for _, wait := range w.Retry {
		b = binary.AppendVarint(b, int64(wait))
	}
	b = binary.AppendVarint(b, int64(w.Timeout))
	b = appendString(appendList(b, w.Success.Codes), w.Success.Header)
	b = appendInt(b, w.MaxInFlight)
	b = appendInt(binary.AppendVarint(appendInt(b, w.RateLimit.N), int64(w.RateLimit.Per)), w.RateLimit.Burst)
	b = appendBool(b, w.Ordered)
	b = appendInt(b, w.BreakAfter)
	b = appendBool(b, w.Envelope)
	b = append(b, byte(w.State))
	b = appendString(b, w.Reason)
	b = appendTime(b, w.NotBefore)
	b = appendInt(b, w.Window)
	b = appendTime(b, w.FailingSince)
	b = appendInt(b, w.Failures)
	b = appendInt(b, w.Trips)
	b = binary.AppendVarint(b, w.Version)
	b = appendTime(b, w.CreatedAt)
	return appendTime(b, w.UpdatedAt), nil
}

// UnmarshalBinary sets the webhook to what AppendBinary wrote, or returns an error and leaves it undefined.
func (w *Webhook) UnmarshalBinary(data []byte) error {
	d, _ := newDecoder(data)
	*w = Webhook{ID: d.string(), Project: d.string(), Name: d.string(), Owner: d.string(), URL: d.string(), Method: d.string()}
	if n := d.count(); n > 0 {
		w.Header = make(http.Header, n)
		for range n {
			name := d.string()
			w.Header[name] = decodeList[string](&d)
		}
	}
	w.Events = decodeList[string](&d)
	for range d.count() {
		w.Secrets = append(w.Secrets, Secret{text: d.string(), ExpiresAt: d.time()})
	}
	w.Schemes = decodeList[Scheme](&d)
	for range d.count() {
		w.Retry = append(w.Retry, time.Duration(d.varint()))
	}
	w.Timeout = time.Duration(d.varint())
	w.Success = Success{Codes: decodeList[string](&d), Header: d.string()}
	w.MaxInFlight = d.int()
	w.RateLimit = RateLimit{N: d.int(), Per: time.Duration(d.varint()), Burst: d.int()}
	w.Ordered = d.bool()
	w.BreakAfter = d.int()
	w.Envelope = d.bool()
	w.State = State(d.byte())
	w.Reason = d.string()
	w.NotBefore = d.time()
	w.Window = d.int()
	w.FailingSince = d.time()
	w.Failures = d.int()
	w.Trips = d.int()
	w.Version = d.varint()
	w.CreatedAt = d.time()
	w.UpdatedAt = d.time()
	return d.end("webhook")
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendInt(b []byte, n int) []byte { return binary.AppendVarint(b, int64(n)) }

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendTime writes 0 for the zero time, which microseconds cannot tell from the year 1.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(append(b, 1), t.UnixMicro())
}

func appendList[S ~string](b []byte, list []S) []byte {
	b = appendInt(b, len(list))
	for _, s := range list {
		b = appendString(b, string(s))
	}
	return b
}

func appendMap(b []byte, m map[string]string) []byte {
	b = appendInt(b, len(m))
	if len(m) == 0 {
		return b
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = appendString(appendString(b, k), m[k])
	}
	return b
}

// decoder reads fields from a string. After the first fault it returns zero values and end says so.
type decoder struct {
	s   string
	bad bool
}

// newDecoder returns a decoder over the head of data and a copy of its tail.
func newDecoder(data []byte) (d decoder, tail []byte) {
	if len(data) == 0 || data[0] != codecVersion {
		d.bad = true
		return d, nil
	}
	size, n := binary.Uvarint(data[1:])
	if n <= 0 || size > uint64(len(data)-1-n) {
		d.bad = true
		return d, nil
	}
	head := len(data) - int(size)
	d.s = string(data[1+n : head])
	if size == 0 {
		return d, nil
	}
	return d, bytes.Clone(data[head:])
}

// end reports a fault, or bytes that are left over.
func (d *decoder) end(what string) error {
	if d.bad || d.s != "" {
		return fmt.Errorf("%w: %s", errCorrupt, what)
	}
	return nil
}

func (d *decoder) uvarint() uint64 {
	var v uint64
	for i := range min(len(d.s), binary.MaxVarintLen64) {
		c := d.s[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.s = d.s[i+1:]
			return v
		}
	}
	d.bad, d.s = true, ""
	return 0
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) int() int { return int(d.varint()) }

// count reads the length of a list; each of its items takes a byte or more, so that it cannot exceed what is left.
func (d *decoder) count() int {
	n := d.varint()
	if n < 0 || n > int64(len(d.s)) {
		d.bad, d.s = true, ""
		return 0
	}
	return int(n)
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.s)) {
		d.bad, d.s = true, ""
		return ""
	}
	s := d.s[:n]
	d.s = d.s[n:]
	return s
}

func (d *decoder) byte() byte {
	if d.s == "" {
		d.bad = true
		return 0
	}
	c := d.s[0]
	d.s = d.s[1:]
	return c
}

func (d *decoder) bool() bool { return d.byte() != 0 }

func (d *decoder) time() time.Time {
	if !d.bool() {
		return time.Time{}
	}
	return time.UnixMicro(d.varint()).UTC()
}

// microseconds reads a duration; one that no Duration can hold is a fault.
func (d *decoder) microseconds() time.Duration {
	n := d.varint()
	if n < math.MinInt64/1000 || n > math.MaxInt64/1000 {
		d.bad, d.s = true, ""
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

func (d *decoder) stringMap() map[string]string {
	n := d.count()
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := d.string()
		m[k] = d.string()
	}
	return m
}

func decodeList[S ~string](d *decoder) []S {
	n := d.count()
	if n == 0 {
		return nil
	}
	list := make([]S, n)
	for i := range list {
		list[i] = S(d.string())
	}
	return list
}
