package postrider

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postrider/postrider/internal/jsonvalid"
)

// Limits of an Event. MaxPayload is Config's.
const (
	maxID          = 64
	maxType        = 128
	maxContentType = 256
	maxOrderKey    = 256
	maxMetadata    = 32       // entries
	maxMetadataLen = 16 << 10 // bytes of all keys and values together
	jsonType       = "application/json"
)

// TypeTest is the type of the event that SendTest makes.
const TypeTest = "TEST"

// Event is something that happened, told to every webhook of its project whose patterns match its type.
type Event struct {
	// ID is 1 to 64 of [A-Za-z0-9_-] and the idempotency key: a second event with the same Project and ID is a
	// duplicate. Receivers see it as webhook-id, the same at every attempt. Empty: Config.NewEventID makes one.
	// Random IDs are slower to store than ones that ascend with time.
	ID string
	// Project says whose event it is: only webhooks of the same project match. 0 to 64 of [a-zA-Z0-9_-].
	Project string
	// Type is 1 to 128 of [A-Za-z0-9_.-].
	Type string
	// Time is when it happened, kept in UTC to the microsecond; the time of Emit if zero. Years 1 to 9999.
	Time time.Time
	// Payload is sent exactly as given, unless Webhook.Envelope or Config.Encode say otherwise. At most
	// Config.MaxPayload bytes. It is not changed, and is free to be reused once Emit has returned.
	Payload []byte
	// ContentType is the media type of Payload, application/json if empty; then Payload must be valid JSON.
	ContentType string
	// Metadata is kept with the event and not sent. At most 32 entries, 16 KiB together, UTF-8.
	Metadata map[string]string
	// OrderKey makes the events with the same key go to a webhook strictly one after another, in the order in which
	// they were committed: each waits until the one before it has ended, through all its retries. At most 256 bytes of
	// UTF-8 without control characters. Empty: in no order, unless the webhook is Ordered.
	OrderKey string
}

// NewEvent returns an event whose payload is v as JSON, or the error of json.Marshal.
func NewEvent(project, typ string, v any) (Event, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return Event{}, fmt.Errorf("postrider: payload of event %q: %w", typ, err)
	}
	return Event{Project: project, Type: typ, Payload: payload}, nil
}

// Validate reports every problem of the event in a *ValidationError. It does not know Config.MaxPayload.
func (e Event) Validate() error {
	var p problems
	e.check(&p, 0)
	p.prefix(0, "Event.")
	return p.err()
}

// check notes the event's problems under the bare names of its fields, which costs nothing while there are none;
// maxPayload 0 is no limit.
func (e *Event) check(p *problems, maxPayload int) {
	if e.ID != "" && !word(e.ID, 1, maxID, "_-") {
		p.add("ID", CodeFormat, "is %s, want 1 to %d of [A-Za-z0-9_-], or empty", quote(e.ID), maxID)
	}
	checkProject(p, "Project", e.Project)
	switch {
	case e.Type == "":
		p.add("Type", CodeRequired, "is empty, want 1 to %d of [A-Za-z0-9_.-]", maxType)
	case !word(e.Type, 1, maxType, "_.-"):
		p.add("Type", CodeFormat, "is %s, want 1 to %d of [A-Za-z0-9_.-]", quote(e.Type), maxType)
	}
	checkTime(p, "Time", e.Time)
	if maxPayload > 0 && len(e.Payload) > maxPayload {
		p.add("Payload", CodeRange, "is %d bytes, want at most %d", len(e.Payload), maxPayload)
	} else if isJSON(e.ContentType) && !jsonvalid.Valid(e.Payload) {
		p.add("Payload", CodeFormat, "is not valid JSON (%d bytes); set ContentType to send something else", len(e.Payload))
	}
	if !validContentType(e.ContentType) {
		p.add("ContentType", CodeFormat, "is %s, want a media type of at most %d bytes, or empty", quote(e.ContentType), maxContentType)
	}
	e.checkMetadata(p, "Metadata")
	if e.OrderKey != "" && (len(e.OrderKey) > maxOrderKey || !validText(e.OrderKey)) {
		p.add("OrderKey", CodeFormat, "is %s, want at most %d bytes of UTF-8 without control characters", quote(e.OrderKey), maxOrderKey)
	}
}

func (e *Event) checkMetadata(p *problems, name string) {
	if len(e.Metadata) > maxMetadata {
		p.add(name, CodeRange, "has %d entries, want at most %d", len(e.Metadata), maxMetadata)
		return
	}
	if len(e.Metadata) == 0 {
		return // sorting nothing would allocate, for every event
	}
	size := 0
	for _, k := range slices.Sorted(maps.Keys(e.Metadata)) {
		size += len(k) + len(e.Metadata[k])
		if k == "" || !utf8.ValidString(k) || !utf8.ValidString(e.Metadata[k]) {
			p.add(name, CodeFormat, "has the key %s, want keys that are not empty, and keys and values in UTF-8", quote(k))
		}
	}
	if size > maxMetadataLen {
		p.add(name, CodeRange, "is %d bytes, want at most %d", size, maxMetadataLen)
	}
}

// isJSON reports whether a payload of this content type must be JSON.
func isJSON(contentType string) bool {
	if contentType == "" || contentType == jsonType {
		return true
	}
	t, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(t), jsonType)
}

func validContentType(s string) bool {
	if s == "" || s == jsonType {
		return true
	}
	if len(s) > maxContentType || !validHeaderValue(s) {
		return false
	}
	_, _, err := mime.ParseMediaType(s)
	return err == nil && strings.Contains(s, "/")
}

func checkProject(p *problems, name, project string) {
	if project != "" && !word(project, 1, maxID, "_-") {
		p.add(name, CodeFormat, "is %s, want 1 to %d of [a-zA-Z0-9_-], or empty", quote(project), maxID)
	}
}

func checkTime(p *problems, name string, t time.Time) {
	if y := t.UTC().Year(); !t.IsZero() && (y < 1 || y > 9999) {
		p.add(name, CodeRange, "is in the year %d, want 1 to 9999", y)
	}
}
