package postrider

import "time"

// Limits of every list.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// Page is a part of a list. A store examines a bounded number of entries for a page, so that a page may be short,
// even empty, and still have a Next.
type Page[T any] struct {
	Items []T
	Next  string // Cursor of the query for the page that follows; "" on the last page
}

// WebhookQuery selects webhooks, oldest first.
type WebhookQuery struct {
	Project string // "": of every project
	Owner   string // "": of every owner
	Name    string // "": of every name
	Limit   int    // rows of a page, at most MaxLimit; DefaultLimit if zero
	Cursor  string // Page.Next of the same query; "": from the start
}

// Validate reports every problem of the query in a *ValidationError, except a Cursor that its store refuses.
func (q WebhookQuery) Validate() error {
	var p problems
	checkProject(&p, "WebhookQuery.Project", q.Project)
	within(&p, "WebhookQuery.Limit", q.Limit, 0, MaxLimit)
	return p.err()
}

// Matches reports whether the query selects the webhook.
func (q *WebhookQuery) Matches(w *Webhook) bool {
	return (q.Project == "" || q.Project == w.Project) && (q.Owner == "" || q.Owner == w.Owner) && (q.Name == "" || q.Name == w.Name)
}

// DeliveryQuery selects deliveries; every field that is set narrows it. Newest first, unless Ascending: in the order
// in which they were committed.
type DeliveryQuery struct {
	ID        string   // this one delivery
	WebhookID string   // also of a deleted webhook
	Project   string   // "": of every project
	Statuses  []Status // one of these
	Ascending bool
	Limit     int    // rows of a page, at most MaxLimit; DefaultLimit if zero
	Cursor    string // Page.Next of the same query; "": from the start
}

// Validate reports every problem of the query in a *ValidationError, except a Cursor that its store refuses.
func (q DeliveryQuery) Validate() error {
	var p problems
	checkProject(&p, "DeliveryQuery.Project", q.Project)
	for i, s := range q.Statuses {
		if int(s) >= len(statusText) {
			p.add(index("DeliveryQuery.Statuses", i), CodeRange, "is %d, want 0 to %d", s, len(statusText)-1)
		}
	}
	within(&p, "DeliveryQuery.Limit", q.Limit, 0, MaxLimit)
	return p.err()
}

// Matches reports whether the query selects the delivery. Order, limit and cursor play no part.
func (q *DeliveryQuery) Matches(d *Delivery) bool {
	if q.ID != "" && q.ID != d.ID || q.WebhookID != "" && q.WebhookID != d.WebhookID || q.Project != "" && q.Project != d.Project {
		return false
	}
	if len(q.Statuses) == 0 {
		return true
	}
	for _, s := range q.Statuses {
		if s == d.Status {
			return true
		}
	}
	return false
}

// AttemptQuery selects finished attempts: newest delivery first, and of each delivery the newest attempt first.
type AttemptQuery struct {
	DeliveryID string // of this one delivery
	WebhookID  string // also of a deleted webhook
	Limit      int    // rows of a page, at most MaxLimit; DefaultLimit if zero
	Cursor     string // Page.Next of the same query; "": from the start
}

// Validate reports every problem of the query in a *ValidationError, except a Cursor that its store refuses.
func (q AttemptQuery) Validate() error {
	var p problems
	within(&p, "AttemptQuery.Limit", q.Limit, 0, MaxLimit)
	return p.err()
}

// StatsQuery selects what is counted: all, or one webhook.
type StatsQuery struct {
	WebhookID string // "": the whole store
}

// Stats are counts at one moment, taken from counters.
type Stats struct {
	// Deliveries by status, pruned ones left out.
	New, InProcess, Delivered, Canceled, Failed int64
	// InFlight is how many are claimed at this moment.
	InFlight int64
	// Pruned is how many deliveries have been pruned so far.
	Pruned int64
	// AttemptsOK and AttemptsFailed count finished attempts, those of pruned deliveries too.
	AttemptsOK, AttemptsFailed int64
}

// Open returns how many deliveries have not ended.
func (s *Stats) Open() int64 { return s.New + s.InProcess }

// Count returns the field that counts deliveries of the status.
func (s *Stats) Count(status Status) *int64 {
	return [...]*int64{&s.New, &s.InProcess, &s.Delivered, &s.Canceled, &s.Failed}[status]
}

// maxDuration is what a caller may pass to a store as a duration: time.Now plus it stays a valid time.
const maxDuration = 100 * 366 * 24 * time.Hour
