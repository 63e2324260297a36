package postrider

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

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

// Choice narrows a query to rows that have something, or to those that have not.
type Choice uint8

// The choices.
const (
	ChoiceAny Choice = iota
	ChoiceYes
	ChoiceNo
)

// CodeNone is the Code of a query that selects what got no answer at all.
const CodeNone = "none"

// MaxOffset is how many rows a query can skip; further down, narrow it by time or follow its cursor.
const MaxOffset = 100_000

// DeliveryQuery selects deliveries; every field that is set narrows it. Newest first, unless Ascending: in the order
// in which they were committed. What several processes commit at the same time is in the order of their clocks.
type DeliveryQuery struct {
	ID          string    // this one delivery
	WebhookID   string    // also of a deleted webhook
	WebhookName string    // of the webhook that has this name in Project now; the Dispatcher makes it a WebhookID, a Store never sees it
	Project     string    // "": of every project
	Owner       string    // of webhooks with this owner now; "": of every owner
	EventType   string    // a type, a prefix and *, or "" for every type
	EventID     string    // of this event
	Statuses    []Status  // one of these
	Code        string    // of LastCode: "404", a class "4xx", or CodeNone
	MinAttempts int       // finished attempts, at least
	From, To    time.Time // CreatedAt at or after From, at or before To; zero: no bound
	Test        Choice
	ReplayOf    string // replays of this delivery
	Ascending   bool
	Offset      int    // rows to skip, at most MaxOffset; not together with Cursor: Next carries what a short page has left of it
	Limit       int    // rows of a page, at most MaxLimit; DefaultLimit if zero
	Cursor      string // Page.Next of the same query; "": from the start
}

// Validate reports every problem of the query in a *ValidationError, except a Cursor that its store refuses.
func (q DeliveryQuery) Validate() error {
	var p problems
	if q.WebhookName != "" && !word(q.WebhookName, 1, maxID, "_-") {
		p.add("WebhookName", CodeFormat, "is %s, want 1 to %d of [a-zA-Z0-9_-]", quote(q.WebhookName), maxID)
	}
	checkProject(&p, "Project", q.Project)
	checkPattern(&p, "EventType", q.EventType)
	if q.EventID != "" && !word(q.EventID, 1, maxID, "_-") {
		p.add("EventID", CodeFormat, "is %s, want 1 to %d of [A-Za-z0-9_-]", quote(q.EventID), maxID)
	}
	for i, s := range q.Statuses {
		if int(s) >= len(statusText) {
			p.add(index("Statuses", i), CodeRange, "is %d, want 0 to %d", s, len(statusText)-1)
		}
	}
	checkCode(&p, "Code", q.Code)
	within(&p, "MinAttempts", q.MinAttempts, 0, 1<<31-1)
	checkRange(&p, q.From, q.To)
	within(&p, "Test", int(q.Test), 0, int(ChoiceNo))
	within(&p, "Offset", q.Offset, 0, MaxOffset)
	if q.Offset > 0 && q.Cursor != "" {
		p.add("Offset", CodeRange, "is %d together with a Cursor, want one of them", q.Offset)
	}
	within(&p, "Limit", q.Limit, 0, MaxLimit)
	p.prefix(0, "DeliveryQuery.")
	return p.err()
}

// Matches reports whether the query selects the delivery. Order, offset, limit and cursor play no part.
func (q *DeliveryQuery) Matches(d *Delivery) bool {
	return (q.ID == "" || q.ID == d.ID) &&
		(q.WebhookID == "" || q.WebhookID == d.WebhookID) &&
		(q.Project == "" || q.Project == d.Project) &&
		(q.Owner == "" || q.Owner == d.Owner) &&
		q.MatchesType(d.EventType) &&
		(q.EventID == "" || q.EventID == d.EventID) &&
		(len(q.Statuses) == 0 || slices.Contains(q.Statuses, d.Status)) &&
		codeMatches(q.Code, d.LastCode) &&
		d.Attempts >= q.MinAttempts &&
		inRange(d.CreatedAt, q.From, q.To) &&
		q.Test.matches(d.Test) &&
		(q.ReplayOf == "" || q.ReplayOf == d.ReplayOf)
}

// MatchesType reports whether the query selects deliveries of events of the type.
func (q *DeliveryQuery) MatchesType(eventType string) bool {
	return q.EventType == "" || patternMatches(q.EventType, eventType)
}

// AttemptQuery selects finished attempts; every field that is set narrows it. The newest delivery comes first, and of
// each delivery the newest attempt.
type AttemptQuery struct {
	DeliveryID string    // of this one delivery
	WebhookID  string    // also of a deleted webhook
	Project    string    // "": of every project
	Owner      string    // of webhooks with this owner now; "": of every owner
	EventType  string    // a type, a prefix and *, or "" for every type
	Failed     Choice    // ChoiceYes: attempts that failed
	Code       string    // "404", a class "4xx", or CodeNone
	Class      Class     // ClassNone: of every class
	From, To   time.Time // StartedAt at or after From, at or before To; zero: no bound
	Limit      int       // rows of a page, at most MaxLimit; DefaultLimit if zero
	Cursor     string    // Page.Next of the same query; "": from the start
}

// Validate reports every problem of the query in a *ValidationError, except a Cursor that its store refuses.
func (q AttemptQuery) Validate() error {
	var p problems
	checkProject(&p, "Project", q.Project)
	checkPattern(&p, "EventType", q.EventType)
	within(&p, "Failed", int(q.Failed), 0, int(ChoiceNo))
	checkCode(&p, "Code", q.Code)
	within(&p, "Class", int(q.Class), 0, len(classText)-1)
	checkRange(&p, q.From, q.To)
	within(&p, "Limit", q.Limit, 0, MaxLimit)
	p.prefix(0, "AttemptQuery.")
	return p.err()
}

// Deliveries returns the query for the deliveries that may have such attempts.
func (q *AttemptQuery) Deliveries() DeliveryQuery {
	return DeliveryQuery{
		ID: q.DeliveryID, WebhookID: q.WebhookID, Project: q.Project, Owner: q.Owner, EventType: q.EventType,
		MinAttempts: 1, To: q.To, // an attempt does not start before its delivery is made
	}
}

// Matches reports whether the query selects the attempt, of a delivery that Deliveries selects.
func (q *AttemptQuery) Matches(a *Attempt) bool {
	return q.Failed.matches(a.Failed) && codeMatches(q.Code, a.Code) && (q.Class == ClassNone || q.Class == a.Class) &&
		inRange(a.StartedAt, q.From, q.To)
}

func (c Choice) matches(has bool) bool { return c == ChoiceAny || has == (c == ChoiceYes) }

// patternMatches reports whether a pattern, as in Webhook.Events, takes a type.
func patternMatches(pattern, eventType string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	return pattern == eventType || open && strings.HasPrefix(eventType, prefix)
}

func checkPattern(p *problems, name, pattern string) {
	if prefix, open := strings.CutSuffix(pattern, "*"); pattern != "" && !(open && prefix == "") && !word(prefix, 1, maxType, "_.-") {
		p.add(name, CodeFormat, "is %s, want a type of at most %d of [A-Za-z0-9_.-], a prefix and *, or *", quote(pattern), maxType)
	}
}

// codeMatches reports whether a status code, 0 if there was no answer, is what a query's Code asks for.
func codeMatches(want string, code int) bool {
	switch {
	case want == "":
		return true
	case want == CodeNone:
		return code == 0
	case strings.HasSuffix(want, "xx"):
		return code/100 == int(want[0]-'0')
	}
	return want == strconv.Itoa(code)
}

func checkCode(p *problems, name, code string) {
	class, open := strings.CutSuffix(code, "xx")
	switch {
	case code == "", code == CodeNone, open && len(class) == 1 && class[0] >= '1' && class[0] <= '5':
	case len(code) == 3 && digits(code) && code[0] >= '1' && code[0] <= '5':
	default:
		p.add(name, CodeFormat, `is %s, want "100" to "599", "1xx" to "5xx", or %q`, quote(code), CodeNone)
	}
}

func inRange(t, from, to time.Time) bool {
	return (from.IsZero() || !t.Before(from)) && (to.IsZero() || !t.After(to))
}

func checkRange(p *problems, from, to time.Time) {
	checkTime(p, "From", from)
	checkTime(p, "To", to)
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		p.add("To", CodeRange, "is %v, want not before From, %v", to, from)
	}
}

// StatsQuery selects what is counted; every field that is set narrows it.
type StatsQuery struct {
	WebhookID string // also of a deleted webhook; ErrNotFound if there never was one
	Project   string // "": of every project
	Owner     string // of webhooks with this owner now; "": of every owner
	Rates     bool   // Stats.Rates as well
}

// Stats are counts at one moment, taken from counters.
type Stats struct {
	// Deliveries by status, pruned ones left out.
	New, InProcess, Delivered, Canceled, Failed int64
	// InFlight is how many are claimed at this moment.
	InFlight int64
	// Due is how many could be sent now if their webhooks let them, those in flight included. Retries are counted by
	// the minute: one is due from the beginning of the minute of its NextAt. What waits for its turn in a lane is not.
	Due int64
	// OldestDue is the NextAt of the one that has been due longest; zero if none is due at this moment.
	OldestDue time.Time
	// Pruned is how many deliveries have been pruned so far.
	Pruned int64
	// AttemptsOK and AttemptsFailed count finished attempts, those of pruned deliveries too.
	AttemptsOK, AttemptsFailed int64
	// Rates is nil unless the query asks for it.
	Rates *Rates
}

// Rates are attempts by the time at which they were recorded, oldest first: the last of each list is the present
// minute or hour, in UTC by the store's clock.
type Rates struct {
	Minutes [120]Rate // 2 h
	Hours   [744]Rate // 31 days
}

// Rate counts attempts.
type Rate struct{ OK, Failed int64 }

// Open returns how many deliveries have not ended.
func (s *Stats) Open() int64 { return s.New + s.InProcess }

// Total returns how many deliveries there are.
func (s *Stats) Total() int64 { return s.New + s.InProcess + s.Delivered + s.Canceled + s.Failed }

// Add adds the counts of o.
func (s *Stats) Add(o *Stats) {
	s.New += o.New
	s.InProcess += o.InProcess
	s.Delivered += o.Delivered
	s.Canceled += o.Canceled
	s.Failed += o.Failed
	s.InFlight += o.InFlight
	s.Pruned += o.Pruned
	s.AttemptsOK += o.AttemptsOK
	s.AttemptsFailed += o.AttemptsFailed
	s.Due += o.Due
	if s.OldestDue.IsZero() || !o.OldestDue.IsZero() && o.OldestDue.Before(s.OldestDue) {
		s.OldestDue = o.OldestDue
	}
	if o.Rates == nil {
		return
	}
	if s.Rates == nil {
		s.Rates = new(Rates)
	}
	for i := range s.Rates.Minutes {
		s.Rates.Minutes[i].add(o.Rates.Minutes[i])
	}
	for i := range s.Rates.Hours {
		s.Rates.Hours[i].add(o.Rates.Hours[i])
	}
}

func (r *Rate) add(o Rate) {
	r.OK += o.OK
	r.Failed += o.Failed
}

// Count returns the field that counts deliveries of the status.
func (s *Stats) Count(status Status) *int64 {
	return [...]*int64{&s.New, &s.InProcess, &s.Delivered, &s.Canceled, &s.Failed}[status]
}

// maxDuration is what a caller may pass to a store as a duration: time.Now plus it stays a valid time.
const maxDuration = 100 * 366 * 24 * time.Hour
