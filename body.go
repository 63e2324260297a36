package postrider

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postrider/postrider/internal/jsonvalid"
)

// Draft is an attempt whose body is to be made. What it refers to must not be changed.
type Draft struct {
	Event    Event
	Delivery Delivery
	Webhook  Webhook
	Attempt  int       // 1 for the first
	Time     time.Time // of the attempt, in UTC; signed in whole seconds
}

// Body is what an attempt sends. Content must not be changed once Config.Encode has returned it.
type Body struct {
	Content     []byte // at most twice Config.MaxPayload and 64 KiB
	ContentType string // "" leaves the event's
}

// bodyMargin is what Config.Encode may add to twice the largest payload.
const bodyMargin = 64 << 10

// errEncodePanic stands for a panic of Config.Encode, which is logged where it is caught.
var errEncodePanic = errors.New("it panicked")

// body returns what the claim's next attempt sends, with a content type.
func (c caller) body(ctx context.Context, claim *Claim, p *prepared, now time.Time) (Body, error) {
	switch e := &claim.Event; {
	case c.cfg.Encode != nil:
		return c.encode(ctx, claim, &p.opened, now)
	case p.webhook.Envelope:
		return Body{envelope(e), jsonType}, nil
	default:
		return Body{e.Payload, cmp.Or(e.ContentType, jsonType)}, nil
	}
}

// encode asks Config.Encode, and takes nothing from it that cannot be sent.
func (c caller) encode(ctx context.Context, claim *Claim, w *Webhook, now time.Time) (b Body, err error) {
	defer func() {
		if v := recover(); v != nil {
			logPanic(ctx, c.log, "Config.Encode", v)
			b, err = Body{}, errEncodePanic
		}
	}()
	b, err = c.cfg.Encode(Draft{
		Event: claim.Event, Delivery: claim.Delivery, Webhook: *w,
		Attempt: claim.Delivery.Attempts + 1, Time: now.UTC(),
	})
	if err != nil {
		return Body{}, err
	}
	if most := 2*c.cfg.MaxPayload + bodyMargin; len(b.Content) > most {
		return Body{}, fmt.Errorf("its body has %d bytes, want at most %d", len(b.Content), most)
	}
	b.ContentType = cmp.Or(b.ContentType, claim.Event.ContentType, jsonType)
	if !validContentType(b.ContentType) {
		return Body{}, fmt.Errorf("its content type is %s, want a media type of at most %d bytes",
			quote(b.ContentType), maxContentType)
	}
	return b, nil
}

// envelope returns the event as Standard Webhooks recommends
// (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, "Payload structure").
// A payload that is JSON is there byte for byte; another one is a string: its text if it is UTF-8, else its bytes in
// standard base64.
func envelope(e *Event) []byte {
	b := make([]byte, 0, len(e.Payload)+len(e.Type)+96)
	b = append(b, `{"type":`...)
	b = appendJSON(b, e.Type)
	b = append(b, `,"timestamp":"`...)
	b = e.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","data":`...)
	switch {
	case saysJSON(e.ContentType) && jsonvalid.Valid(e.Payload):
		b = append(b, e.Payload...)
	case utf8.Valid(e.Payload):
		b = appendJSON(b, string(e.Payload))
	default:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, e.Payload)
		b = append(b, '"')
	}
	return append(b, '}')
}

// saysJSON reports whether a content type is that of JSON: application/json or anything that ends in +json.
func saysJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.TrimSpace(media)
	suffix := media[max(0, len(media)-len("+json")):]
	return isJSON(contentType) || strings.EqualFold(suffix, "+json")
}

// appendJSON appends a text as a JSON string, with no more escapes than JSON asks for.
func appendJSON(b []byte, s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string into memory: never fails
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}
