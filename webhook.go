package postrider

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/netguard"
)

// Limits of a Webhook.
const (
	maxURL       = 2048
	maxPatterns  = 256
	maxSecrets   = 5
	maxSchemes   = 5
	maxWaits     = 100
	maxWait      = 366 * 24 * time.Hour
	maxPerHook   = 10_000 // requests in flight
	maxOwner     = 256
	maxCodes     = 64
	maxReason    = 256
	anyType      = "*"
	methodsKnown = "POST, PUT, PATCH or DELETE"
)

// State says whether a webhook gets what is meant for it.
type State uint8

// The states of a webhook.
const (
	StateEnabled  State = iota
	StatePaused         // by its owner: everything waits
	StateDisabled       // by the dispatcher, see Webhook.Reason: everything waits
)

var stateText = []string{"ENABLED", "PAUSED", "DISABLED"}

// String returns ENABLED, PAUSED or DISABLED.
func (s State) String() string { return textOf(stateText, s, "State") }

// MarshalText returns String, or an error for a value outside the set.
func (s State) MarshalText() ([]byte, error) { return marshalText(stateText, s, "State") }

// UnmarshalText takes what MarshalText returns.
func (s *State) UnmarshalText(b []byte) error { return unmarshalText(stateText, s, b, "State") }

// Webhook is where a receiver wants events, and how. All of it is data: any store can keep it.
type Webhook struct {
	// ID is 1 to 64 of [A-Za-z0-9_-], unique in the store, and never changes. Empty at create: a UUIDv7.
	ID string
	// Project is whose events are matched; it never changes. 0 to 64 of [a-zA-Z0-9_-].
	Project string
	// Name is 1 to 64 of [a-zA-Z0-9_-] and unique within its project.
	Name string
	// Owner is who may see the webhook and its deliveries: any UTF-8 without control characters, at most 256 bytes, for the views.
	Owner string
	// URL is http or https with a host, at most 2,048 bytes, without user and fragment, to what Config.Network allows.
	URL string
	// Method is POST (also if empty), PUT, PATCH or DELETE.
	Method string
	// Header is sent with every attempt, beside what signing sets. At most 32 values, 4 KiB each, 16 KiB together.
	// Names that frame the message, route it or sign it are refused: Host, Content-Length, Webhook-Id and the like.
	Header http.Header
	// Events are 1 to 256 patterns: a type, a prefix with a trailing *, or * for all.
	Events []string
	// Secrets sign every attempt, newest first, those that have not expired; at most 5. None at create: one is made, for
	// the first of Schemes.
	Secrets []Secret
	// Schemes are how attempts are signed, at most 5; SchemeStandard if empty. Each needs a secret that it takes.
	Schemes []Scheme
	// Retry is this webhook's own schedule; the dispatcher's if empty.
	Retry Schedule
	// Timeout of one attempt, at most Config.MaxTimeout; Config.Timeout if zero.
	Timeout time.Duration
	// Success says which answers count as delivered; any 2xx if zero.
	Success Success
	// MaxInFlight is how many requests may be in flight at once, at most 10,000; Config.MaxInFlight if zero.
	MaxInFlight int
	// RateLimit bounds the requests over time; none if zero. It holds in each process that runs a Dispatcher.
	RateLimit RateLimit
	// Ordered sends its events strictly one after another, in the order in which they were committed: each waits until
	// the one before it has ended, through all its retries. It concerns events that are emitted from then on.
	Ordered bool
	// BreakAfter is how many failures in a row open its breaker, at most 1,048,576; Config.BreakAfter if zero.
	BreakAfter int
	// Envelope sends {"type", "timestamp", "data"} instead of the bare payload, as Standard Webhooks recommends: the
	// event's type, its time, and the payload: as a string unless it is JSON, in base64 if it is not UTF-8 either.
	// Config.Encode goes before it.
	Envelope bool

	// State and the fields below are kept by the dispatcher; PauseWebhook and ResumeWebhook change State.
	State State
	// Reason says why the webhook is disabled.
	Reason string
	// NotBefore: nothing is sent to the webhook before it.
	NotBefore time.Time
	// Window is how many of its deliveries may be in flight while it is being tried again; 0: MaxInFlight.
	Window int
	// FailingSince is when the present row of failures began; zero if the last attempt succeeded.
	FailingSince time.Time
	// Failures is the length of that row.
	Failures int
	// Trips is how often in a row its breaker has opened; each time it stays so for longer.
	Trips int
	// Version goes up by one with every change.
	Version   int64
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Success is the rule by which an answer counts as delivered. The zero value is any 2xx.
type Success struct {
	// Codes are status codes ("200") and classes of them ("2xx"), at most 64.
	Codes []string
	// Header, if not empty, is the name of a header that the answer must carry as well.
	Header string
}

// RateLimit is N requests every Per, evenly spread, and Burst at once after a time without. The zero value is no limit.
type RateLimit struct {
	N     int           // 1 to 1,000,000
	Per   time.Duration // 1 ms to 24 h
	Burst int           // 1 if zero, at most 10,000
}

// Matches reports whether the webhook's patterns take events of the type.
func (w *Webhook) Matches(eventType string) bool {
	return slices.ContainsFunc(w.Events, func(pattern string) bool { return patternMatches(pattern, eventType) })
}

// Validate reports every problem of the webhook in a *ValidationError. It does not know the Config, so it judges
// neither Timeout against MaxTimeout nor URL against Network.
func (w Webhook) Validate() error {
	var p problems
	w.check(&p, maxWait, nil)
	return p.err()
}

// check notes the webhook's problems. Without a guard only the form of the URL is judged.
func (w *Webhook) check(p *problems, maxTimeout time.Duration, guard *netguard.Guard) {
	if !word(w.ID, 1, maxID, "_-") {
		p.add("Webhook.ID", CodeFormat, "is %s, want 1 to %d of [A-Za-z0-9_-]", quote(w.ID), maxID)
	}
	checkProject(p, "Webhook.Project", w.Project)
	switch {
	case w.Name == "":
		p.add("Webhook.Name", CodeRequired, "is empty, want 1 to %d of [a-zA-Z0-9_-]", maxID)
	case !word(w.Name, 1, maxID, "_-"):
		p.add("Webhook.Name", CodeFormat, "is %s, want 1 to %d of [a-zA-Z0-9_-]", quote(w.Name), maxID)
	}
	if len(w.Owner) > maxOwner || !validText(w.Owner) {
		p.add("Webhook.Owner", CodeFormat, "is %s, want at most %d bytes of UTF-8 without control characters", quote(w.Owner), maxOwner)
	}
	if guard == nil {
		checkURL(p, "Webhook.URL", w.URL)
	} else {
		for _, problem := range guard.CheckURL(w.URL) {
			p.add("Webhook.URL", problem.Code, "%s", problem.Reason)
		}
	}
	switch w.Method {
	case "", http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		p.add("Webhook.Method", CodeRange, "is %s, want %s", quote(w.Method), methodsKnown)
	}
	checkHeader(p, "Webhook.Header", w.Header)
	w.checkEvents(p)
	w.checkSigning(p)
	w.Retry.check(p, "Webhook.Retry")
	within(p, "Webhook.Timeout", w.Timeout, 0, maxTimeout)
	w.Success.check(p)
	within(p, "Webhook.MaxInFlight", w.MaxInFlight, 0, maxPerHook)
	if r := w.RateLimit; r != (RateLimit{}) {
		within(p, "Webhook.RateLimit.N", r.N, 1, 1_000_000)
		within(p, "Webhook.RateLimit.Per", r.Per, time.Millisecond, 24*time.Hour)
		within(p, "Webhook.RateLimit.Burst", r.Burst, 0, 10_000)
	}
	within(p, "Webhook.BreakAfter", w.BreakAfter, 0, maxBreakAfter)
	if int(w.State) >= len(stateText) {
		p.add("Webhook.State", CodeRange, "is %d, want 0 to %d", w.State, len(stateText)-1)
	}
	if len(w.Reason) > maxReason {
		p.add("Webhook.Reason", CodeRange, "is %d bytes, want at most %d", len(w.Reason), maxReason)
	}
	within(p, "Webhook.Window", w.Window, 0, maxPerHook)
	within(p, "Webhook.Failures", w.Failures, 0, 1<<31-1)
	within(p, "Webhook.Trips", w.Trips, 0, 1<<31-1)
}

func (w *Webhook) checkEvents(p *problems) {
	if len(w.Events) == 0 {
		p.add("Webhook.Events", CodeRequired, `is empty, want 1 to %d patterns; "*" takes every event`, maxPatterns)
	}
	if len(w.Events) > maxPatterns {
		p.add("Webhook.Events", CodeRange, "has %d patterns, want at most %d", len(w.Events), maxPatterns)
		return
	}
	for i, pattern := range w.Events {
		prefix, open := strings.CutSuffix(pattern, "*")
		low := 1
		if open {
			low = 0
		}
		if !word(prefix, low, maxType, "_.-") {
			p.add(index("Webhook.Events", i), CodeFormat, "is %s, want a type of at most %d of [A-Za-z0-9_.-], a prefix and *, or *", quote(pattern), maxType)
		}
	}
}

func (w *Webhook) checkSigning(p *problems) {
	if len(w.Secrets) > maxSecrets {
		p.add("Webhook.Secrets", CodeRange, "has %d secrets, want at most %d", len(w.Secrets), maxSecrets)
	}
	for i, s := range w.Secrets {
		if err := s.valid(); err != nil {
			p.add(index("Webhook.Secrets", i), CodeFormat, "is [secret], %v", err)
		}
		checkTime(p, index("Webhook.Secrets", i)+".ExpiresAt", s.ExpiresAt)
	}
	w.checkSchemes(p)
}

func (s *Success) check(p *problems) {
	if len(s.Codes) > maxCodes {
		p.add("Webhook.Success.Codes", CodeRange, "has %d codes, want at most %d", len(s.Codes), maxCodes)
	}
	for i, c := range s.Codes {
		if len(c) != 3 || c[0] < '1' || c[0] > '5' || c[1:] != "xx" && !word(c, 3, 3, "") || c[1:] != "xx" && !digits(c) {
			p.add(index("Webhook.Success.Codes", i), CodeFormat, `is %s, want "100" to "599" or "1xx" to "5xx"`, quote(c))
		}
	}
	if s.Header != "" && !validHeaderName(s.Header) {
		p.add("Webhook.Success.Header", CodeFormat, "is %s, want the name of a header", quote(s.Header))
	}
}

// met reports whether an answer meets the rule, and whether it was the header that it lacked.
func (s *Success) met(code int, header http.Header) (ok, lacksHeader bool) {
	ok = code >= 200 && code <= 299
	if len(s.Codes) > 0 {
		text := strconv.Itoa(code)
		ok = slices.ContainsFunc(s.Codes, func(c string) bool {
			return c == text || len(text) == 3 && c[1:] == "xx" && c[0] == text[0]
		})
	}
	if ok && s.Header != "" && len(header.Values(s.Header)) == 0 {
		return false, true
	}
	return ok, false
}

// checkURL judges the text of a URL. Its reasons never hold more of the URL than its scheme or host: path, query and
// user often carry secrets.
func checkURL(p *problems, name, text string) {
	switch {
	case text == "":
		p.add(name, CodeRequired, "is empty, want http or https with a host")
		return
	case len(text) > maxURL:
		p.add(name, CodeRange, "is %d bytes, want at most %d", len(text), maxURL)
		return
	case !validText(text) || strings.ContainsAny(text, " \\"):
		p.add(name, CodeFormat, "holds a space, a backslash or a control character, want a URL without")
		return
	}
	u, err := url.Parse(text)
	if err != nil {
		p.add(name, CodeFormat, "does not parse as a URL, want http or https with a host")
		return
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		p.add(name, CodeFormat, "has the scheme %s, want http or https", quote(u.Scheme))
		return
	}
	if u.Hostname() == "" || u.Opaque != "" {
		p.add(name, CodeFormat, "has no host, want http or https with a host")
	}
	if port := u.Port(); u.Host != "" && strings.HasSuffix(u.Host, ":") || port != "" && !validPort(port) {
		p.add(name, CodeRange, "has the port %s, want 1 to 65535 or none", quote(port))
	}
	if u.User != nil {
		p.add(name, CodeFormat, "has a user, want none: use a header for credentials")
	}
	if u.Fragment != "" || strings.Contains(text, "#") {
		p.add(name, CodeFormat, "has a fragment, want none")
	}
}

func validPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 1 && n <= 65535 && s[0] != '0' && digits(s)
}

func digits(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

func index(name string, i int) string { return name + "[" + strconv.Itoa(i) + "]" }
