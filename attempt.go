package postrider

import (
	"bytes"
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
	"time"
)

// userAgent is sent unless the webhook sets another.
const userAgent = "Postrider/1"

// What a tenant is told of attempts that could not be made. They count, or they would be tried without end.
const (
	sentenceUnsendable = "The URL or the headers of the webhook cannot be sent"
	sentenceUnsigned   = "The webhook has no secret that has not expired"
	sentencePanic      = "The request failed in the program that sends it"
)

// Names of headers in canonical form, so that they are set without being made so.
const (
	headerID          = "Webhook-Id"
	headerTimestamp   = "Webhook-Timestamp"
	headerSignature   = "Webhook-Signature"
	headerContentType = "Content-Type"
	headerUserAgent   = "User-Agent"
)

// prepared is a webhook made ready for sending, once for all attempts under one Version.
type prepared struct {
	webhook  Webhook
	once     sync.Once
	unsigned sync.Once // to log it
	err      error     // why it cannot be sent to
	method   string
	url      *url.URL
	header   http.Header // what is the same in every attempt; its values are clipped, so that adding copies
	keys     []liveKey
	timeout  time.Duration
	retry    RetryPolicy
}

// fill checks again what was checked when the webhook was stored: a store may hold what another version let pass.
func (p *prepared) fill(c *Config) (err error) {
	w := &p.webhook
	p.timeout = min(cmp.Or(w.Timeout, c.Timeout), c.MaxTimeout)
	p.retry = c.Retry
	if len(w.Retry) > 0 {
		p.retry = w.Retry
	}
	var bad problems
	checkURL(&bad, "Webhook.URL", w.URL)
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
	p.keys, err = liveKeys(w.Secrets)
	return err
}

// request builds the request of the claim's next attempt. ok is false if no secret is live.
func (p *prepared) request(c *Claim, now time.Time) (r Request, ok bool) {
	body := c.Event.Payload
	signed := sign(p.keys, c.Event.ID, now, body)
	if signed == "" {
		return r, false
	}
	header := make(http.Header, len(p.header)+4)
	for name, values := range p.header {
		header[name] = values
	}
	values := [4]string{c.Event.ID, strconv.FormatInt(now.Unix(), 10), signed, cmp.Or(c.Event.ContentType, jsonType)}
	one := values[:]
	header[headerID] = one[0:1:1]
	header[headerTimestamp] = one[1:2:2]
	header[headerSignature] = one[2:3:3]
	header[headerContentType] = one[3:4:4]
	return Request{
		Method: p.method, URL: p.url, Header: header, Body: body,
		WebhookID: c.Webhook.ID, EventID: c.Event.ID, DeliveryID: c.Delivery.ID, Attempt: c.Delivery.Attempts + 1,
	}, true
}

// result is what a request came to.
type result uint8

const (
	resultOK       result = iota // delivered
	resultFailed                 // a failed attempt
	resultLocal                  // no attempt: this machine lacked the means
	resultReleased               // no attempt: cut off by shutdown
)

// attempt makes one HTTP call and decides what follows. It returns an outcome whatever happens.
func (e *engine) attempt(f *flight) (Outcome, result) {
	c, p := &f.claim, f.prepared
	p.once.Do(func() {
		if p.err = p.fill(&e.cfg); p.err != nil {
			e.log.ErrorContext(e.attempts, "webhook cannot be sent to", "webhook", p.webhook.ID, "error", p.err)
		}
	})
	start := time.Now()
	a := &Attempt{
		DeliveryID: c.Delivery.ID,
		WebhookID:  c.Webhook.ID,
		Number:     c.Delivery.Attempts + 1,
		StartedAt:  start.UTC().Truncate(time.Microsecond),
		Timestamp:  start.Unix(),
	}
	resp, err := e.call(c, p, start)
	// By the monotonic clock, so that no attempt ends before it began.
	took := time.Since(start).Truncate(time.Microsecond)
	a.FinishedAt = a.StartedAt.Add(took)

	out := Outcome{DeliveryID: a.DeliveryID, Token: c.Token}
	var asked time.Duration
	switch {
	case err == nil:
		asked = judge(a, &p.webhook.Success, &resp, a.FinishedAt)
	case e.attempts.Err() != nil:
		return out, resultReleased
	case err.class == ClassLocal:
		e.log.WarnContext(e.attempts, "no means to send, pausing", "webhook", a.WebhookID, "error", detail(err.cause))
		return out, resultLocal
	default:
		a.fail(err.class, err.sentence)
	}
	out.Attempt = a
	if !a.Failed {
		out.Status = StatusDelivered
		return out, resultOK
	}
	out.Status = StatusFailed
	if wait, again := e.next(p.retry, a.Number); again {
		out.Status = StatusInProcess
		out.RetryIn = min(max(wait, asked, 0), maxWait)
		a.NextAt = a.FinishedAt.Add(out.RetryIn)
	}
	e.logFailure(a, p, err)
	return out, resultFailed
}

// failure is why there was no answer.
type failure struct {
	class    Class
	sentence string
	cause    error // for the log; may be nil
}

// call sends the next request of the claim. It returns a panic of the sender as a failure.
func (e *engine) call(c *Claim, p *prepared, now time.Time) (resp Response, failed *failure) {
	if e.attempts.Err() != nil {
		return resp, &failure{ClassCanceled, ClassCanceled.Sentence(), nil}
	}
	if p.err != nil {
		return resp, &failure{ClassProtocol, sentenceUnsendable, p.err}
	}
	r, ok := p.request(c, now)
	if !ok {
		p.unsigned.Do(func() {
			e.log.ErrorContext(e.attempts, "webhook has no live secret, nothing is sent", "webhook", p.webhook.ID)
		})
		return resp, &failure{ClassProtocol, sentenceUnsigned, nil}
	}
	ctx, cancel := context.WithTimeout(e.attempts, p.timeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			logPanic(ctx, e.log, "Sender", v)
			failed = &failure{ClassProtocol, sentencePanic, nil}
		}
	}()
	resp, err := e.cfg.Sender.Send(ctx, r)
	if err != nil {
		class := classOf(ctx, err)
		return resp, &failure{class, class.Sentence(), err}
	}
	return resp, nil
}

// judge enters an answer that came at now into its attempt, and returns how long it asks to wait.
func judge(a *Attempt, rule *Success, resp *Response, now time.Time) (wait time.Duration) {
	a.Body, a.Truncated = resp.Body, resp.Truncated
	if len(a.Body) > MaxBody {
		a.Body, a.Truncated = bytes.Clone(a.Body[:MaxBody]), true
	}
	if resp.Code < 1 || resp.Code > 999 {
		a.fail(ClassProtocol, ClassProtocol.Sentence())
		return 0
	}
	a.Code = resp.Code
	ok, lacksHeader := rule.met(resp.Code, resp.Header)
	switch {
	case ok:
		return 0
	case lacksHeader:
		a.fail(ClassRule, ClassRule.Sentence())
	default:
		a.fail(ClassStatus, fmt.Sprintf("The endpoint answered %d, which is not a success", resp.Code))
	}
	if resp.Code == http.StatusTooManyRequests || resp.Code == http.StatusServiceUnavailable {
		wait, _ = retryAfter(resp.Header, now)
	}
	return wait
}

func (a *Attempt) fail(class Class, sentence string) {
	a.Failed, a.Class, a.Error = true, class, sentence
}

// next asks the policy. One that panics is replaced by the default schedule, so that the delivery still ends.
func (e *engine) next(policy RetryPolicy, n int) (wait time.Duration, again bool) {
	defer func() {
		if v := recover(); v != nil {
			logPanic(e.attempts, e.log, "RetryPolicy", v)
			wait, again = DefaultSchedule().Next(n)
		}
	}()
	return policy.Next(n)
}

func (e *engine) logFailure(a *Attempt, p *prepared, f *failure) {
	if !e.log.Enabled(e.attempts, slog.LevelDebug) {
		return
	}
	attrs := []any{"delivery", a.DeliveryID, "webhook", a.WebhookID, "attempt", a.Number, "class", a.Class.String(), "code", a.Code}
	if p.url != nil {
		attrs = append(attrs, "host", p.url.Host)
	}
	if f != nil && f.cause != nil {
		attrs = append(attrs, "error", detail(f.cause))
	}
	e.log.DebugContext(e.attempts, "attempt failed", attrs...)
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
