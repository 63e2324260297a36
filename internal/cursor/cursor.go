// Package cursor makes the opaque text that a page's Next is: a position, bound to the query it came from.
package cursor

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/postrider/postrider"
)

var encoding = base64.RawURLEncoding.Strict()

// Deliveries returns the key of a query: what must be the same for a cursor of it to hold.
func Deliveries(q postrider.DeliveryQuery) uint64 {
	q.Offset, q.Limit, q.Cursor = 0, 0, ""
	q.From, q.To = q.From.UTC(), q.To.UTC()
	return key("deliveries", q)
}

// Attempts returns the key of a query.
func Attempts(q postrider.AttemptQuery) uint64 {
	q.Limit, q.Cursor = 0, ""
	q.From, q.To = q.From.UTC(), q.To.UTC()
	return key("attempts", q)
}

// Webhooks returns the key of a query.
func Webhooks(q postrider.WebhookQuery) uint64 {
	q.Limit, q.Cursor = 0, ""
	return key("webhooks", q)
}

func key(kind string, query any) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %#v", kind, query)
	return h.Sum64()
}

// Encode returns the text of a position within the query with this key.
func Encode(key uint64, position ...uint64) string {
	b := binary.BigEndian.AppendUint64(nil, key)
	for _, p := range position {
		b = binary.AppendUvarint(b, p)
	}
	return encoding.EncodeToString(b)
}

// Decode sets position to what was encoded for the same key. An empty text leaves it as it is and is not set; text
// that does not parse, or is of another query, is a *postrider.ValidationError.
func Decode(text string, key uint64, position ...*uint64) (set bool, err error) {
	if text == "" {
		return false, nil
	}
	b, err := encoding.DecodeString(text)
	if err != nil || len(b) < 8 {
		return false, refused("does not parse")
	}
	if binary.BigEndian.Uint64(b) != key {
		return false, refused("belongs to another query")
	}
	b = b[8:]
	for _, p := range position {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return false, refused("does not parse")
		}
		*p, b = v, b[n:]
	}
	if len(b) > 0 {
		return false, refused("does not parse")
	}
	return true, nil
}

func refused(reason string) error {
	return &postrider.ValidationError{Fields: []postrider.FieldError{{
		Name: "Cursor", Reason: reason + ", want Page.Next of the same query, or empty", Code: postrider.CodeFormat,
	}}}
}
