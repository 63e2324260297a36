package postrider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/textproto"
	"net/url"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postrider/postrider/internal/netguard"
)

// userAgent is sent unless the webhook sets another.
const userAgent = "Postrider/1"

// What a tenant is told of attempts that could not be made. They count, or they would be tried without end.
const (
	sentenceUnsendable = "The URL or the headers of the webhook cannot be sent"
	sentenceUnsigned   = "The webhook has no secret that has not expired"
	sentenceBodiless   = "The body of the request could not be made"
	sentencePanic      = "The request failed in the program that sends it"
)

// Names of headers in canonical form, so that they are set without being made so.
const (
	headerID          = "Webhook-Id"
	headerTimestamp   = "Webhook-Timestamp"
	headerContentType = "Content-Type"
	headerUserAgent   = "User-Agent"
)

// prepared is a webhook made ready for sending, once for all attempts under the same settings.
type prepared struct {
	webhook   Webhook // as the store keeps it
	opened    Webhook // nothing in it is sealed
	once      sync.Once
	stale     atomic.Bool // it could not be opened: the next claim tries again
	unsigned  sync.Once   // to log it
	bodiless  sync.Once   // likewise
	misjudged sync.Once   // likewise
	err       error       // why it cannot be sent to
	blocked   bool        // by Config.Network: err says why
	method    string
	url       *url.URL
	header    http.Header // what is the same in every attempt; its values are clipped, so that adding copies
	signers   []signers
	timeout   time.Duration
	retry     RetryPolicy
}

// serves reports whether the webhook, as it is now, is sent to just like the one that was prepared: every failure makes
// a new Version of it, and changes nothing in how it is sent to.
func (p *prepared) serves(w *Webhook) bool {
	same := p.webhook
	same.State = w.State
	same.keep(w)
	return same.equal(w)
}

// fill checks again what was checked when the webhook was stored: a store may hold what another version let pass.
func (p *prepared) fill(c *Config, guard *netguard.Guard) (err error) {
	w := &p.webhook
	p.timeout = min(cmp.Or(w.Timeout, c.Timeout), c.MaxTimeout)
	p.retry = c.Retry
	if len(w.Retry) > 0 {
		p.retry = w.Retry
	}
	if p.opened, err = c.open(p.webhook); err != nil {
		p.stale.Store(true)
		return err
	}
	w = &p.opened
	var bad problems
	for _, problem := range guard.CheckURL(w.URL) {
		bad.add("Webhook.URL", problem.Code, "%s", problem.Reason)
	}
	if err := bad.err(); err != nil {
		p.blocked = true
		return err
	}
	checkHeader(&bad, "Webhook.Header", w.Header)
	if err := bad.err(); err != nil {
		return err
	}
	p.method = cmp.Or(w.Method, http.MethodPost)
	if p.url, err = url.Parse(w.URL); err != nil {
		return errors.New("the URL does not parse") // the error holds the URL
	}
	p.header = make(http.Header, len(w.Header)+1)
	p.header[headerUserAgent] = []string{userAgent}
	for name, values := range w.Header {
		p.header[textproto.CanonicalMIMEHeaderKey(name)] = append([]string(nil), values...)
	}
	for name, values := range p.header {
		p.header[name] = values[:len(values):len(values)]
	}
	p.signers, err = signersOf(w)
	return err
}

// result is what a request came to.
type result uint8

const (
	resultOK       result = iota // delivered
	resultFailed                 // a failed attempt
	resultLocal                  // no attempt: this machine lacked the means
	resultReleased               // no attempt: cut off by the end of its context
)

// caller makes attempts.
type caller struct {
	cfg   *Config
	log   *slog.Logger
	guard *netguard.Guard
	limit *timeLimit // nil: the sender may keep its context
}

// attempt makes one HTTP call and decides what follows. It returns an outcome whatever happens; the end of ctx cuts the
// call off.
func (c caller) attempt(ctx context.Context, claim *Claim, p *prepared) (Outcome, result) {
	p.once.Do(func() {
		if p.err = p.fill(c.cfg, c.guard); p.err != nil {
			c.log.ErrorContext(ctx, "webhook cannot be sent to", "webhook", p.webhook.ID, "error", p.err)
		}
	})
	start := time.Now()
	a := &Attempt{
		DeliveryID: claim.Delivery.ID,
		WebhookID:  claim.Webhook.ID,
		Number:     claim.Delivery.Attempts + 1,
		StartedAt:  start.UTC().Truncate(time.Microsecond),
		Timestamp:  start.Unix(),
	}
	resp, err := c.call(ctx, claim, p, start)
	// By the monotonic clock, so that no attempt ends before it began.
	took := time.Since(start).Truncate(time.Microsecond)
	a.FinishedAt = a.StartedAt.Add(took)

	out := Outcome{DeliveryID: a.DeliveryID, Token: claim.Token}
	var v verdict
	switch {
	case err == nil:
		v = c.judge(ctx, a, p, &resp)
	case ctx.Err() != nil:
		return out, resultReleased
	case err.class == ClassLocal:
		c.log.WarnContext(ctx, "no means to send", "webhook", a.WebhookID, "error", detail(err.cause))
		return out, resultLocal
	default:
		a.fail(err.class, err.sentence)
	}
	out.Attempt = a
	out.Webhook = c.cfg.bearing(claim, a.Failed, v.hold, v.disable)
	if !a.Failed {
		out.Status = StatusDelivered
		return out, resultOK
	}
	out.Status = StatusFailed
	if wait, again := c.next(ctx, p.retry, a.Number); again && !v.last && !claim.Delivery.Test {
		out.Status = StatusInProcess
		out.RetryIn = v.until(wait)
		a.NextAt = a.FinishedAt.Add(out.RetryIn)
	}
	c.logFailure(ctx, a, p, err)
	return out, resultFailed
}

// failure is why there was no answer.
type failure struct {
	class    Class
	sentence string
	cause    error // for the log; may be nil
}

// call sends the next request of the claim. It returns a panic of the sender as a failure.
func (c caller) call(ctx context.Context, claim *Claim, p *prepared, now time.Time) (resp Response, failed *failure) {
	if ctx.Err() != nil {
		return resp, &failure{ClassCanceled, ClassCanceled.Sentence(), nil}
	}
	switch {
	case p.blocked:
		return resp, &failure{ClassBlocked, ClassBlocked.Sentence(), p.err}
	case p.err != nil:
		return resp, &failure{ClassProtocol, sentenceUnsendable, p.err}
	}
	r, failed := c.request(ctx, claim, p, now)
	if failed != nil {
		return resp, failed
	}
	if c.limit != nil {
		ctx = c.limit.begin(ctx, p.timeout)
		defer c.limit.end()
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.timeout)
		defer cancel()
	}
	defer func() {
		if v := recover(); v != nil {
			logPanic(ctx, c.log, "Sender", v)
			failed = &failure{ClassProtocol, sentencePanic, nil}
		}
	}()
	resp, err := c.cfg.Sender.Send(ctx, r)
	if err != nil {
		class := classOf(ctx, err)
		return resp, &failure{class, class.Sentence(), err}
	}
	return resp, nil
}

// request builds the request of the claim's next attempt. What is signed is what is sent.
func (c caller) request(ctx context.Context, claim *Claim, p *prepared, now time.Time) (Request, *failure) {
	body, err := c.body(ctx, claim, p, now)
	if err != nil {
		p.bodiless.Do(func() {
			c.log.ErrorContext(ctx, "Config.Encode makes no body, nothing is sent",
				"webhook", p.webhook.ID, "error", detail(err))
		})
		return Request{}, &failure{ClassProtocol, sentenceBodiless, err}
	}
	header := make(http.Header, len(p.header)+3+len(p.signers))
	for name, values := range p.header {
		header[name] = values
	}
	one := make([]string, 3+len(p.signers)) // the values of the headers that differ by attempt
	one[0], one[1], one[2] = claim.Event.ID, strconv.FormatInt(now.Unix(), 10), body.ContentType
	header[headerID] = one[0:1:1]
	header[headerTimestamp] = one[1:2:2]
	header[headerContentType] = one[2:3:3]
	if !signInto(header, one[3:], p.signers, claim.Event.ID, now, body.Content) {
		p.unsigned.Do(func() {
			c.log.ErrorContext(ctx, "webhook has no live secret, nothing is sent", "webhook", p.webhook.ID)
		})
		return Request{}, &failure{ClassProtocol, sentenceUnsigned, nil}
	}
	return Request{
		Method: p.method, URL: p.url, Header: header, Body: body.Content,
		WebhookID: claim.Webhook.ID, EventID: claim.Event.ID, DeliveryID: claim.Delivery.ID, Attempt: claim.Delivery.Attempts + 1,
	}, nil
}

func (a *Attempt) fail(class Class, sentence string) {
	a.Failed, a.Class, a.Error = true, class, sentence
}

// next asks the policy. One that panics is replaced by the default schedule, so that the delivery still ends.
func (c caller) next(ctx context.Context, policy RetryPolicy, n int) (wait time.Duration, again bool) {
	defer func() {
		if v := recover(); v != nil {
			logPanic(ctx, c.log, "RetryPolicy", v)
			wait, again = DefaultSchedule().Next(n)
		}
	}()
	return policy.Next(n)
}

func (c caller) logFailure(ctx context.Context, a *Attempt, p *prepared, f *failure) {
	if !c.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []any{"delivery", a.DeliveryID, "webhook", a.WebhookID, "attempt", a.Number, "class", a.Class.String(), "code", a.Code}
	if p.url != nil {
		attrs = append(attrs, "host", p.url.Host)
	}
	if f != nil && f.cause != nil {
		attrs = append(attrs, "error", detail(f.cause))
	}
	c.log.DebugContext(ctx, "attempt failed", attrs...)
}

// logPanic logs where the program's own code panicked. Of the value it shows only the type, unless it is the runtime's:
// it may be an error that quotes a URL or a secret.
func logPanic(ctx context.Context, log *slog.Logger, where string, value any) {
	what := fmt.Sprintf("%T", value)
	if err, ok := value.(runtime.Error); ok {
		what = err.Error()
	}
	log.ErrorContext(ctx, "panic in the program's own code", "where", where, "panic", what, "stack", string(debug.Stack()))
}
