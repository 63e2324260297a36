package postrider

import (
	"strconv"
	"time"
)

// MaxBody is how many bytes of an answer's body an Attempt keeps.
const MaxBody = 16 << 10

// maxMessage bounds Attempt.Error.
const maxMessage = 512

// Status is how far a delivery is.
type Status uint8

// The statuses of a delivery. The last three are final: they never change. As text NEW, IN_PROCESS, DELIVERED,
// CANCELED, FAILED.
const (
	StatusNew       Status = iota // no attempt has finished
	StatusInProcess               // at least one attempt has finished, and it has not ended
	StatusDelivered
	StatusCanceled
	StatusFailed
)

var statusText = []string{"NEW", "IN_PROCESS", "DELIVERED", "CANCELED", "FAILED"}

// Final reports whether a delivery with this status has ended.
func (s Status) Final() bool { return s >= StatusDelivered }

// String returns the status as text.
func (s Status) String() string { return textOf(statusText, s, "Status") }

// MarshalText returns String, or an error for a value outside the set.
func (s Status) MarshalText() ([]byte, error) { return marshalText(statusText, s, "Status") }

// UnmarshalText takes what MarshalText returns.
func (s *Status) UnmarshalText(b []byte) error { return unmarshalText(statusText, s, b, "Status") }

// Class says in one word why an attempt failed. The set is closed, and what a tenant may see of a failure are fixed
// sentences, which hold no address, no resolver and no secret.
type Class uint8

// The classes of failures.
const (
	ClassNone     Class = iota
	ClassDNS            // the host name has no address
	ClassConnect        // no connection
	ClassTLS            // no TLS session: certificate, version, handshake
	ClassTimeout        // no answer within the time limit
	ClassReset          // the connection ended before the answer
	ClassBlocked        // the address is not allowed
	ClassProtocol       // the answer is not HTTP, or too large; or the request could not be made
	ClassStatus         // an answer whose code does not count as success
	ClassRule           // an answer that lacks what the webhook's rule asks for
	ClassLocal          // our side had no means (descriptors, memory): not an attempt
	ClassCanceled       // cut off by us
)

var classText = []string{
	"NONE", "DNS", "CONNECT", "TLS", "TIMEOUT", "RESET", "BLOCKED", "PROTOCOL", "STATUS", "RULE", "LOCAL", "CANCELED",
}

var classSentence = []string{
	"",
	"The host name could not be resolved",
	"The connection could not be made",
	"The TLS session could not be established",
	"No answer within the time limit",
	"The connection was closed before the answer was complete",
	"The address is not allowed",
	"The request or its answer was not valid HTTP",
	"The endpoint answered with a status code that is not a success",
	"The answer did not meet the success rule of the webhook",
	"The request could not be made at this time",
	"The request was cut off",
}

// String returns the class in upper case, such as TIMEOUT.
func (c Class) String() string { return textOf(classText, c, "Class") }

// MarshalText returns String, or an error for a value outside the set.
func (c Class) MarshalText() ([]byte, error) { return marshalText(classText, c, "Class") }

// UnmarshalText takes what MarshalText returns.
func (c *Class) UnmarshalText(b []byte) error { return unmarshalText(classText, c, b, "Class") }

// Sentence returns what people may be told of the class, "" for ClassNone.
func (c Class) Sentence() string {
	if int(c) < len(classSentence) {
		return classSentence[c]
	}
	return ""
}

// Delivery is one event on its way to one webhook.
type Delivery struct {
	ID          string // made by the store, looks like a UUIDv7
	EventID     string
	Project     string
	EventType   string
	WebhookID   string
	WebhookName string // as it is now, also of a deleted webhook
	Owner       string // of the webhook, likewise
	Status      Status
	InFlight    bool          // somebody holds a claim on it; for display
	Attempts    int           // finished ones
	LastCode    int           // the most recent status code that was received, also if a later attempt got none; 0: none
	LastTook    time.Duration // how long the last attempt took
	LastClass   Class         // of the most recent failed attempt
	LastError   string        // likewise; it stays after a success
	CreatedAt   time.Time
	NextAt      time.Time // when the next attempt is due; zero once it has ended
	FinishedAt  time.Time // when it ended; zero before
	Test        bool
	ReplayOf    string // the delivery that it sends again
}

// Validate reports every way in which the delivery contradicts itself in a *ValidationError. It is for stores and
// their tests.
func (d Delivery) Validate() error {
	var p problems
	for _, f := range []struct{ name, value string }{
		{"ID", d.ID}, {"EventID", d.EventID}, {"WebhookID", d.WebhookID}, {"WebhookName", d.WebhookName},
	} {
		if !word(f.value, 1, maxID, "_-") {
			p.add("Delivery."+f.name, CodeFormat, "is %s, want 1 to %d of [A-Za-z0-9_-]", quote(f.value), maxID)
		}
	}
	checkProject(&p, "Delivery.Project", d.Project)
	if !word(d.EventType, 1, maxType, "_.-") {
		p.add("Delivery.EventType", CodeFormat, "is %s, want 1 to %d of [A-Za-z0-9_.-]", quote(d.EventType), maxType)
	}
	if int(d.Status) >= len(statusText) {
		p.add("Delivery.Status", CodeRange, "is %d, want 0 to %d", d.Status, len(statusText)-1)
	}
	within(&p, "Delivery.Attempts", d.Attempts, 0, 1<<31-1)
	if d.Status == StatusNew && d.Attempts > 0 || (d.Status == StatusInProcess || d.Status == StatusDelivered) && d.Attempts == 0 {
		p.add("Delivery.Attempts", CodeRange, "is %d, which is not possible with the status %s", d.Attempts, d.Status)
	}
	if d.Status.Final() == d.FinishedAt.IsZero() {
		p.add("Delivery.FinishedAt", CodeRange, "is %v, want it set with a final status and only then, the status is %s", d.FinishedAt, d.Status)
	}
	if d.Status.Final() && !d.NextAt.IsZero() {
		p.add("Delivery.NextAt", CodeRange, "is %v, want zero: it has ended", d.NextAt)
	}
	if d.CreatedAt.IsZero() {
		p.add("Delivery.CreatedAt", CodeRequired, "is zero, want the time it was made")
	}
	return p.err()
}

// Attempt is one HTTP call that finished. What it decided is frozen: it is never judged again.
type Attempt struct {
	DeliveryID string
	WebhookID  string
	Number     int // 1, 2, ... within its delivery
	StartedAt  time.Time
	FinishedAt time.Time
	Timestamp  int64 // as signed: Unix seconds
	Failed     bool
	Code       int       // status code; 0: no answer
	Class      Class     // ClassNone unless Failed
	Error      string    // what a tenant may see, at most 512 bytes; "" unless Failed
	Body       []byte    // the first MaxBody bytes of the answer
	Truncated  bool      // the answer was longer
	NextAt     time.Time // when the next one was planned as this one failed; zero: there was to be none
}

// ID returns <delivery id>-<number>.
func (a *Attempt) ID() string { return a.DeliveryID + "-" + strconv.Itoa(a.Number) }

// Validate reports every way in which the attempt contradicts itself in a *ValidationError.
func (a Attempt) Validate() error {
	var p problems
	a.check(&p)
	p.prefix(0, "Attempt.")
	return p.err()
}

func (a *Attempt) check(p *problems) {
	if a.DeliveryID == "" {
		p.add("DeliveryID", CodeRequired, "is empty, want the ID of the delivery")
	}
	within(p, "Number", a.Number, 1, 1<<31-1)
	if a.StartedAt.IsZero() || a.FinishedAt.Before(a.StartedAt) {
		p.add("FinishedAt", CodeRange, "is %v, want not before StartedAt (%v), which is not zero", a.FinishedAt, a.StartedAt)
	}
	within(p, "Code", a.Code, 0, 999)
	if int(a.Class) >= len(classText) || a.Failed == (a.Class == ClassNone) {
		p.add("Class", CodeRange, "is %s, want one with a failed attempt and only then", a.Class)
	}
	if len(a.Error) > maxMessage || !a.Failed && a.Error != "" {
		p.add("Error", CodeRange, "is %d bytes, want at most %d, and none unless it failed", len(a.Error), maxMessage)
	}
	if len(a.Body) > MaxBody {
		p.add("Body", CodeRange, "is %d bytes, want at most %d", len(a.Body), MaxBody)
	}
	if !a.Failed && !a.NextAt.IsZero() {
		p.add("NextAt", CodeRange, "is %v, want zero unless it failed", a.NextAt)
	}
}
