package postrider

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// DecisionKind is what Config.Classify makes of an answer.
type DecisionKind uint8

// The kinds of decisions.
const (
	DecisionDefault   DecisionKind = iota // as without Classify
	DecisionDelivered                     // a success, whatever the webhook's rule says
	DecisionRetry                         // failed; tried again as the schedule has it, after 429 and 503 not sooner than Retry-After
	DecisionRetryAt                       // failed; tried again at Decision.At, if the schedule has another attempt
	DecisionGiveUp                        // failed, and not tried again
	DecisionDisable                       // failed, and the webhook is disabled, as by 410
)

// Decision is what Config.Classify says of an answer.
type Decision struct {
	Kind DecisionKind
	// At is when DecisionRetryAt tries again, whatever Retry-After says: at once if it is past, in 24 h at the latest.
	At time.Time
	// Reason is shown to tenants instead of the usual sentence, as Attempt.Error and Webhook.Reason; "" leaves that.
	// At most 256 bytes of UTF-8, or it is cut. It must hold no secret.
	Reason string
}

// Why a webhook was disabled by an answer.
const (
	reasonGone   = "the endpoint answered 410 Gone"
	reasonAnswer = "the receiver's answer disabled it"
)

// verdict is what follows from an answer, beside what its attempt says. The zero verdict leaves it to the schedule.
type verdict struct {
	wait    time.Duration // until the next attempt: at least, or just so long
	exact   bool          // just so long
	last    bool          // no other attempt
	hold    time.Duration // of the webhook, as long as the receiver asks
	disable string        // why the webhook is disabled; "": it is not
}

// until returns how long to wait where the schedule waits so long.
func (v *verdict) until(scheduled time.Duration) time.Duration {
	if v.exact {
		scheduled = 0
	}
	return min(max(scheduled, v.wait, 0), maxWait)
}

// judge enters an answer into its attempt, which has ended by then, and returns what follows. What Config.Classify
// says goes before the webhook's rule, and before what 410 means by itself.
func (c caller) judge(ctx context.Context, a *Attempt, p *prepared, resp *Response) (v verdict) {
	if len(resp.Body) > MaxBody {
		resp.Body, resp.Truncated = bytes.Clone(resp.Body[:MaxBody]), true
	}
	a.Body, a.Truncated = resp.Body, resp.Truncated
	if resp.Code < 1 || resp.Code > 999 {
		a.fail(ClassProtocol, ClassProtocol.Sentence())
		return v
	}
	a.Code = resp.Code
	said := c.classify(ctx, p, resp)
	ok, lacksHeader := p.webhook.Success.met(resp.Code, resp.Header)
	switch {
	case said.Kind == DecisionDelivered || said.Kind == DecisionDefault && ok:
		return v
	case ok || lacksHeader:
		a.fail(ClassRule, ClassRule.Sentence())
	default:
		a.fail(ClassStatus, fmt.Sprintf("The endpoint answered %d, which is not a success", resp.Code))
	}
	a.Error = cmp.Or(said.Reason, a.Error)
	switch said.Kind {
	case DecisionDefault:
		if a.Class == ClassStatus && a.Code == http.StatusGone {
			v.disable = cmp.Or(said.Reason, reasonGone)
		}
	case DecisionRetryAt:
		v.wait, v.exact = min(said.At.Sub(a.FinishedAt), maxRetryAfter), true
		return v
	case DecisionGiveUp:
		v.last = true
	case DecisionDisable:
		v.disable = cmp.Or(said.Reason, reasonAnswer)
	}
	if a.Code == http.StatusTooManyRequests || a.Code == http.StatusServiceUnavailable {
		v.wait, _ = retryAfter(resp.Header, a.FinishedAt)
		v.hold = v.wait
	}
	return v
}

// classify asks Config.Classify. A panic, and a kind that there is not, are no opinion.
func (c caller) classify(ctx context.Context, p *prepared, resp *Response) (d Decision) {
	if c.cfg.Classify == nil {
		return d
	}
	defer func() {
		if v := recover(); v != nil {
			logPanic(ctx, c.log, "Config.Classify", v)
			d = Decision{}
		}
	}()
	d = c.cfg.Classify(*resp)
	if d.Kind > DecisionDisable {
		p.misjudged.Do(func() {
			c.log.ErrorContext(ctx, "Config.Classify returned a kind that there is not, which is ignored",
				"webhook", p.webhook.ID, "kind", d.Kind)
		})
		return Decision{}
	}
	if len(d.Reason) > maxReason || !utf8.ValidString(d.Reason) {
		p.misjudged.Do(func() {
			c.log.ErrorContext(ctx, "Config.Classify returned a reason that is too long or not UTF-8, which is cut",
				"webhook", p.webhook.ID, "bytes", len(d.Reason))
		})
		d.Reason = strings.ToValidUTF8(d.Reason[:min(len(d.Reason), maxReason)], "")
	}
	return d
}
