package postrider

import (
	"cmp"
	"fmt"
	"time"
)

// The breaker of a webhook, and its disabling. Both are decided where the webhook is kept, in the transaction that
// records an outcome: a Health says by which rules, Apply does it to the webhook as it then is. So the state survives
// a restart, is shared by all who work on the store, and no outcome that comes late undoes what was decided meanwhile.
//
//	closed:    Window 0. BreakAfter failures in a row open it.
//	open:      NotBefore is ahead, Window 1: nothing is handed out. The backlog is not touched.
//	half-open: NotBefore is past, Window 1: one probe. A failure opens it again, for twice as long.
//	widening:  Window 2, 4, ...: doubled by a success that was claimed at the edge of the window, closed when it would
//	           reach MaxInFlight. A failure opens it again. Whoever gets too little to fill a window is closed by a
//	           success calmAfter it was last open.
const (
	firstHold     = 10 * time.Second
	lastHold      = 10 * time.Minute
	maxHold       = time.Hour // by which an answer's Retry-After can hold back its webhook
	calmAfter     = 10 * time.Minute
	minFailures   = 10 // without so many in a row nothing is disabled
	maxBreakAfter = 1 << 20
)

// WebhookChange is what an outcome does to its webhook. Without Health it sets the Window and the row of failures;
// with it these, the Hold and Disable follow from the webhook's state, and the fields here come on top.
type WebhookChange struct {
	Hold    time.Duration // hand out nothing of the webhook for so long; never shortens
	Window  int           // at most so many claims of it held at once, over all callers; 0: MaxInFlight; not read with Health
	Failing bool          // one more failure in a row; false: the row is over
	Disable string        // reason; "": stays as it is
	Health  *Health       // nil: none
	Aside   bool          // leaves Window, row and breaker as they are: of the fields above just Hold and Disable count
}

// Health is the rules by which an outcome bears on the breaker and on disabling.
type Health struct {
	BreakAfter   int           // so many failures in a row open the breaker
	DisableAfter time.Duration // nothing but failures for so long, and at least ten, disable; 0 and Forever: never
	MaxInFlight  int           // a window is given up when it would reach it
	Full         int           // of a success: the Window at whose edge it was claimed; 0: at no edge
}

// stops reports whether the change may keep its webhook from getting more.
func (c *WebhookChange) stops() bool { return c != nil && (c.Failing || c.Hold > 0 || c.Disable != "") }

// Apply does to a webhook what Complete promises of the change, at a time of the store's clock. It replaces fields and
// writes to nothing that they refer to.
func (c *WebhookChange) Apply(w *Webhook, now time.Time) {
	switch {
	case c.Aside:
	case !c.Failing:
		w.FailingSince, w.Failures = time.Time{}, 0
	case w.Failures == 0:
		w.FailingSince, w.Failures = now, 1
	default:
		w.Failures++
	}
	hold := c.Hold
	switch {
	case c.Aside:
	case c.Health == nil:
		w.Window = c.Window
	default:
		hold = max(hold, c.Health.apply(w, c.Failing, now))
	}
	if until := now.Add(hold).Truncate(time.Microsecond); hold > 0 && until.After(w.NotBefore) {
		w.NotBefore = until
	}
	if c.Disable != "" {
		w.State, w.Reason = StateDisabled, c.Disable
	}
	w.Version++
	w.UpdatedAt = now
}

// apply moves the breaker and disables, and returns how long to hold the webhook.
func (h *Health) apply(w *Webhook, failing bool, now time.Time) (hold time.Duration) {
	if !failing {
		switch {
		case w.Window == 0:
		case h.Full == w.Window && 2*w.Window < h.MaxInFlight:
			w.Window *= 2
		case h.Full == w.Window, h.Full == 0 && calm(w, now):
			w.Window, w.Trips = 0, 0
		}
		return 0
	}
	// While it is open, failures of what was in flight before are no news.
	if !now.Before(w.NotBefore) && (w.Window > 0 || w.Failures >= h.BreakAfter) {
		w.Window = 1
		w.Trips++
		hold = holdFor(w.Trips)
	}
	if h.failedFor(w, now) >= 1 && w.State == StateEnabled {
		w.State, w.Reason = StateDisabled, fmt.Sprintf("every attempt failed for %v", h.DisableAfter)
	}
	return hold
}

// calm reports whether a webhook whose breaker tries has done so for long enough, without a failure.
func calm(w *Webhook, now time.Time) bool { return w.Window > 1 && now.Sub(w.NotBefore) >= calmAfter }

// failedFor returns which part of DisableAfter a webhook has been failing for; below 1 unless it is to be disabled.
func (h *Health) failedFor(w *Webhook, now time.Time) float64 {
	if h.DisableAfter == 0 || h.DisableAfter == Forever || w.Failures == 0 {
		return 0
	}
	part := float64(now.Sub(w.FailingSince)) / float64(h.DisableAfter)
	if w.Failures < minFailures {
		return min(part, 0.999)
	}
	return part
}

// holdFor returns how long the breaker stays open when it trips for the n-th time in a row.
func holdFor(n int) time.Duration {
	hold := firstHold
	for ; n > 1 && hold < lastHold; n-- {
		hold *= 2
	}
	return min(hold, lastHold)
}

// bearing returns what the attempt of a claim does to its webhook, nil if nothing. Tests do not bear on it at all.
// Replays do only while the breaker tries, when the store hands out no more than it needs to know; otherwise they are
// not counted, but a receiver that asks to be left alone is.
func (c *Config) bearing(claim *Claim, failed bool, hold time.Duration, disable string) *WebhookChange {
	w := &claim.Webhook
	hold = min(hold, maxHold)
	switch {
	case claim.Delivery.Test:
		return nil
	case claim.Delivery.ReplayOf != "" && w.Window == 0:
		if hold == 0 && disable == "" {
			return nil
		}
		return &WebhookChange{Hold: hold, Disable: disable, Aside: true}
	case failed:
		return &WebhookChange{Hold: hold, Disable: disable, Failing: true, Health: c.health(w)}
	}
	full := w.Window > 0 && claim.Held >= min(w.Window, cmp.Or(w.MaxInFlight, c.MaxInFlight))
	if !full && w.Failures == 0 && !calm(w, time.Now()) {
		return nil
	}
	change := &WebhookChange{Health: c.health(w)}
	if full {
		change.Health.Full = w.Window
	}
	return change
}

// relief is the bearing of a success whose webhook was without failures when it was claimed, but is not any more. Left
// out, failures with successes between them would look like a row.
func (c *Config) relief(claim *Claim) *WebhookChange {
	if claim.Delivery.Test || claim.Delivery.ReplayOf != "" {
		return nil
	}
	return &WebhookChange{Health: c.health(&claim.Webhook)}
}

// health returns the rules for a webhook.
func (c *Config) health(w *Webhook) *Health {
	return &Health{
		BreakAfter:   cmp.Or(w.BreakAfter, c.BreakAfter),
		DisableAfter: c.DisableAfter,
		MaxInFlight:  cmp.Or(w.MaxInFlight, c.MaxInFlight),
	}
}
