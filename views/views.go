// Package views has the documents of three published reference pages, under which Postrider shows what it has sent:
// past events (A), webhook dispatches (B) and webhook events (C). Each type's JSON is the documented one to the letter:
// names and order of keys, absent against null, numbers against strings, milliseconds against seconds.
//
// The methods of a postrider.Dispatcher return these types; httpapi serves them. The package imports nothing of
// Postrider, so that a client can use it too: what is marshalled can be unmarshalled.
//
// Payloads are json.RawMessage, so that the order of keys, duplicate keys and the digits of numbers stay as they were
// emitted. Rows of one event share the same bytes: they are to be read, not written to. Lists are never nil as the
// Dispatcher returns them; who builds a document must see to it too, or null is shown for [].
package views

import (
	"bytes"
	"fmt"
	"time"
)

// Time is an instant as the pages write it: ISO 8601 in UTC with three decimals and a Z. What is finer than a
// millisecond is cut off, not rounded. The zero Time is null, and absent where the page calls the key optional.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000Z"

// String returns the time as in JSON, without quotes.
func (t Time) String() string { return t.UTC().Format(timeLayout) }

// MarshalJSON returns the time in quotes, or null.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	u := t.UTC()
	if y := u.Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("views: the time is in the year %d, want 0 to 9999", y)
	}
	return u.AppendFormat(make([]byte, 0, len(timeLayout)+2), `"`+timeLayout+`"`), nil
}

// UnmarshalJSON takes any RFC 3339 time in quotes, or null. The result is in UTC.
func (t *Time) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		*t = Time{}
		return nil
	}
	if err := t.Time.UnmarshalJSON(b); err != nil {
		return fmt.Errorf("views: %w", err)
	}
	t.Time = t.UTC()
	return nil
}
