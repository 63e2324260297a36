package postrider

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// maxRetryAfter is how long an answer's Retry-After can put off its delivery.
const maxRetryAfter = 24 * time.Hour

// RetryPolicy plans the attempts of a delivery. It is called from many goroutines at once and must answer the same
// way for as long as a delivery may live; it keeps nothing.
type RetryPolicy interface {
	// Next returns how long to wait after failed attempt number n, which is 1 for the first, and whether there is
	// to be another attempt at all. A wait below zero counts as zero.
	Next(n int) (wait time.Duration, ok bool)
}

// Schedule is a RetryPolicy as data: the waits between attempts, exactly as given, so that it has one attempt more
// than waits. At most 100 waits of at most 366 days.
type Schedule []time.Duration

// Next returns the wait after failed attempt n.
func (s Schedule) Next(n int) (time.Duration, bool) {
	if n < 1 || n > len(s) {
		return 0, false
	}
	return s[n-1], true
}

func (s Schedule) check(p *problems, name string) {
	if len(s) > maxWaits {
		p.add(name, CodeRange, "has %d waits, want at most %d", len(s), maxWaits)
		return
	}
	for i, wait := range s {
		within(p, index(name, i), wait, 0, maxWait)
	}
}

// DefaultSchedule returns the waits of the Standard Webhooks specification: 10 attempts in 75 h 35 min 5 s.
// (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, "Retry schedule")
func DefaultSchedule() Schedule {
	const h = time.Hour
	return Schedule{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * h, 5 * h, 10 * h, 14 * h, 20 * h, 24 * h}
}

// Exponential is a RetryPolicy whose waits grow by a factor, computed by github.com/cenkalti/backoff.
type Exponential struct {
	First    time.Duration // wait after the first attempt; 5 s if zero
	Max      time.Duration // no wait is longer; 24 h if zero
	Factor   float64       // each wait is so many times the one before; 2 if zero, at least 1
	Attempts int           // in all; 10 if zero, at most 101
}

// Next returns the wait after failed attempt n.
func (e Exponential) Next(n int) (time.Duration, bool) {
	e = e.withDefaults()
	if n < 1 || n >= e.Attempts {
		return 0, false
	}
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(e.First),
		backoff.WithMaxInterval(e.Max),
		backoff.WithMultiplier(e.Factor),
		backoff.WithRandomizationFactor(0),
		backoff.WithMaxElapsedTime(0),
	)
	var wait time.Duration
	for range n {
		wait = b.NextBackOff()
	}
	return min(wait, e.Max), true
}

func (e Exponential) withDefaults() Exponential {
	if e.First == 0 {
		e.First = 5 * time.Second
	}
	if e.Max == 0 {
		e.Max = 24 * time.Hour
	}
	if e.Factor == 0 {
		e.Factor = 2
	}
	if e.Attempts == 0 {
		e.Attempts = 10
	}
	return e
}

func (e Exponential) check(p *problems, name string) {
	e = e.withDefaults()
	within(p, name+".First", e.First, 1, maxWait)
	within(p, name+".Max", e.Max, 1, maxWait)
	if !(e.Factor >= 1 && e.Factor <= 1000) {
		p.add(name+".Factor", CodeRange, "is %v, want 1 to 1000", e.Factor)
	}
	within(p, name+".Attempts", e.Attempts, 1, maxWaits+1)
}

// Jitter returns p with a random part of up to fraction of each wait added. It only adds: no attempt is early, and
// deliveries that failed together do not come back together. A fraction at or below 0 returns p.
func Jitter(p RetryPolicy, fraction float64) RetryPolicy {
	if !(fraction > 0) {
		return p
	}
	return jitter{p, min(fraction, 10)}
}

type jitter struct {
	policy   RetryPolicy
	fraction float64
}

func (j jitter) Next(n int) (time.Duration, bool) {
	wait, ok := j.policy.Next(n)
	if !ok || wait <= 0 {
		return wait, ok
	}
	return wait + time.Duration(rand.Float64()*j.fraction*float64(min(wait, maxWait))), true
}

// checkRetry judges the policies that we know, also inside Jitter.
func checkRetry(p *problems, name string, policy RetryPolicy) {
	switch r := policy.(type) {
	case Schedule:
		r.check(p, name)
	case Exponential:
		r.check(p, name)
	case jitter:
		checkRetry(p, name, r.policy)
	}
}

// retryAfter returns how long the first Retry-After of an answer that came at now asks to wait: whole seconds or an
// HTTP date (RFC 9110, section 10.2.3), at most 24 h. ok is false if there is none or it does not parse.
func retryAfter(h http.Header, now time.Time) (wait time.Duration, ok bool) {
	text := strings.Trim(h.Get("Retry-After"), " \t")
	if digits(text) {
		// Saturate instead of multiplying: the number may be anything.
		text = strings.TrimLeft(text, "0")
		if len(text) > 6 {
			return maxRetryAfter, true
		}
		seconds := 0
		for i := range len(text) {
			seconds = seconds*10 + int(text[i]-'0')
		}
		return min(time.Duration(seconds)*time.Second, maxRetryAfter), true
	}
	at, err := http.ParseTime(text)
	if err != nil || !strings.HasSuffix(text, " GMT") && !isANSIC(text) {
		return 0, false
	}
	// Compare before subtracting: the difference of far dates does not fit a Duration.
	switch {
	case !at.After(now):
		return 0, true
	case at.After(now.Add(maxRetryAfter)):
		return maxRetryAfter, true
	}
	return at.Sub(now), true
}

// isANSIC tells the one HTTP date without a zone from those with a zone other than GMT, which ParseTime lets through.
func isANSIC(text string) bool {
	_, err := time.Parse(time.ANSIC, text)
	return err == nil
}
