package postrider

import (
	"cmp"
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// bucket is the tokens of one webhook's RateLimit: each request takes one when it begins. It counts in whole numbers,
// so that a token is there at the very nanosecond, and N of them in Per. Its times are the monotonic clock's.
type bucket struct {
	limit  RateLimit // zero: there is none
	credit int64     // limit.Per a token; it grows by limit.N a nanosecond; below 0: in debt
	at     time.Time // when credit was that
}

// set applies a limit. A bucket that had none starts full; otherwise the tokens there are stay.
func (b *bucket) set(limit RateLimit, now time.Time) {
	if limit == b.limit {
		return
	}
	tokens := limit.burst()
	if b.limit != (RateLimit{}) {
		tokens = min(tokens, b.tokens(now))
	}
	*b = bucket{limit: limit, credit: tokens * int64(limit.Per), at: now}
}

func (r *RateLimit) burst() int64 { return int64(cmp.Or(r.Burst, 1)) }

// fill adds what has come since.
func (b *bucket) fill(now time.Time) {
	n := int64(b.limit.N)
	most := b.limit.burst()*int64(b.limit.Per) + n - 1 // what is over of the last nanosecond is for the next token
	// No more time counts than it takes to fill the bucket: the product of any time would overflow.
	if took := int64(now.Sub(b.at)); took > (most-b.credit)/n {
		b.credit = most
	} else if took > 0 {
		b.credit += took * n
	}
	b.at = now
}

// tokens returns how many requests may begin at now.
func (b *bucket) tokens(now time.Time) int64 {
	b.fill(now)
	return max(0, b.credit) / int64(b.limit.Per)
}

// take takes a token. If there is none the bucket goes into debt, which the next ones pay.
func (b *bucket) take(now time.Time) {
	b.fill(now)
	b.credit -= int64(b.limit.Per)
}

// next returns when there will be a token, if there is none.
func (b *bucket) next() time.Time {
	n := int64(b.limit.N)
	return b.at.Add(time.Duration((int64(b.limit.Per) - b.credit + n - 1) / n))
}

// give gives a token back; what is too much fill takes away.
func (b *bucket) give() { b.credit += int64(b.limit.Per) }

func (b *bucket) full(now time.Time) bool {
	if b.limit == (RateLimit{}) {
		return true
	}
	b.fill(now)
	return b.credit >= b.limit.burst()*int64(b.limit.Per)
}

// meter takes a token for a claim of the webhook, and is false if that has no limit.
func (e *engine) meter(h *hook, limit RateLimit, now time.Time) bool {
	h.bucket.set(limit, now)
	if limit == (RateLimit{}) {
		return false
	}
	h.bucket.take(now)
	h.allowed--
	e.metered = append(e.metered, h)
	return true
}

// remeter brings the limits of the webhooks up to date that a call of Claim has handed out something of. Tokens may
// have come since a webhook's limit was set: if it was used up, another call may find more.
func (e *engine) remeter() {
	for i, h := range e.metered {
		used := h.allowed == 0
		e.limit(h)
		e.again = e.again || used && h.limit != 0
		e.metered[i] = nil
	}
	e.metered = e.metered[:0]
}

// throttle bounds a webhook's limit by its tokens. Without one it waits among the throttled for the next.
func (e *engine) throttle(h *hook, limit int) int {
	if h.bucket.limit == (RateLimit{}) {
		if h.index >= 0 {
			heap.Remove(&e.throttled, h.index)
		}
		return limit
	}
	tokens := h.bucket.tokens(time.Now())
	switch {
	case tokens > 0 && h.index >= 0:
		heap.Remove(&e.throttled, h.index)
	case tokens == 0:
		limit = 0
		h.nextToken = h.bucket.next()
		if h.index < 0 {
			heap.Push(&e.throttled, h)
		} else {
			heap.Fix(&e.throttled, h.index)
		}
	}
	if limit > 0 {
		limit = int(min(int64(limit), tokens))
	}
	h.allowed = limit
	return limit
}

// refill brings the limits up to date of webhooks whose next token has come, or whose RateLimit was changed.
func (e *engine) refill() {
	for id, limit := range e.d.rates.take() {
		if h := e.hooks[id]; h != nil {
			h.bucket.set(limit, time.Now())
			e.limit(h)
		}
	}
	for now := time.Now(); len(e.throttled) > 0 && !e.throttled[0].nextToken.After(now); {
		e.limit(e.throttled[0])
	}
}

// untilToken returns when the next token of a throttled webhook will be there; Forever if none is throttled.
func (e *engine) untilToken() time.Duration {
	if len(e.throttled) == 0 {
		return Forever
	}
	return time.Until(e.throttled[0].nextToken)
}

// rates are the RateLimits that were changed through the Dispatcher and that the loop has not seen. Without them a
// webhook that waits for a token would go on under its old limit until that is there, which may be a day.
type rates struct {
	wake    chan struct{} // buffered(1): the loop looks again
	any     atomic.Bool   // changed is not empty
	mu      sync.Mutex    // guards changed
	changed map[string]RateLimit
}

func (r *rates) note(w *Webhook) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = map[string]RateLimit{}
	}
	r.changed[w.ID] = w.RateLimit
	r.any.Store(true)
	signal(r.wake)
}

func (r *rates) take() map[string]RateLimit {
	if !r.any.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := r.changed
	r.changed = nil
	r.any.Store(false)
	return changed
}

// throttled is a heap of webhooks without a token, by when they get one.
type throttled []*hook

func (t throttled) Len() int           { return len(t) }
func (t throttled) Less(i, j int) bool { return t[i].nextToken.Before(t[j].nextToken) }
func (t throttled) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}

func (t *throttled) Push(x any) {
	h := x.(*hook)
	h.index = len(*t)
	*t = append(*t, h)
}

func (t *throttled) Pop() any {
	old := *t
	h := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	h.index = -1
	return h
}
