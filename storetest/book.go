package storetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postrider/postrider"
)

// book is what the handles of a case have seen of claims: enough to tell that a claim comes out of turn, or that its
// Held cannot be. What it is not sure of it lets pass. It is safe for any goroutine.
type book struct {
	clock *clock
	tick  time.Duration

	mu    sync.Mutex         // guards what follows
	held  map[string]holding // by delivery
	lanes map[string]time.Time
	hooks map[string]*habit
}

// holding is a claim whose outcome nobody has tried to record yet.
type holding struct {
	hook, lane, token string
	until             time.Time
}

// habit is whether a webhook is Ordered.
type habit struct{ ordered, switched bool }

func newBook(c *clock, tick time.Duration) *book {
	b := &book{clock: c, tick: tick, hooks: map[string]*habit{}, lanes: map[string]time.Time{}}
	b.forget()
	return b
}

// forget takes no claim for held any more.
func (b *book) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = map[string]holding{}
}

// stored notes a webhook that is about to be stored.
func (b *book) stored(w postrider.Webhook) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.hooks[w.ID]; h == nil {
		b.hooks[w.ID] = &habit{ordered: w.Ordered}
	} else if h.ordered != w.Ordered {
		h.switched = true
	}
}

// completed notes that outcomes are about to be recorded.
func (b *book) completed(outcomes []postrider.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range outcomes {
		if b.held[o.DeliveryID].token == o.Token {
			delete(b.held, o.DeliveryID)
		}
	}
}

// holdings returns what is held for certain, for the time being.
func (b *book) holdings() map[string]holding {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	list := map[string]holding{}
	for id, h := range b.held {
		if h.until.After(now) {
			list[id] = h
		}
	}
	return list
}

// lane names the lane of a claim; "" if it has none, or if that cannot be told.
func (b *book) lane(c *postrider.Claim) string {
	h := b.hooks[c.Webhook.ID]
	switch {
	case h == nil || h.switched || c.Delivery.Test || c.Delivery.ReplayOf != "":
		return ""
	case h.ordered:
		return c.Webhook.ID
	case c.Event.OrderKey != "":
		return c.Webhook.ID + "\x00" + c.Event.OrderKey
	}
	return ""
}

// claimed notes the claims of a call and says what is wrong with them. before is what was held when it began.
func (b *book) claimed(r postrider.ClaimRequest, claims []postrider.Claim, before map[string]holding) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	least, busy := map[string]int{}, map[string]string{}
	for id, h := range before {
		if b.held[id] == h { // all the time
			least[h.hook]++
			busy[h.lane] = id
		}
	}
	until := b.clock.Now().Add(r.Lease)
	if !b.clock.own {
		until = until.Add(-b.tick)
	}
	for i := range claims {
		c := &claims[i]
		hook, lane := c.Webhook.ID, b.lane(c)
		if least[hook]++; c.Held < least[hook] {
			err = errors.Join(err, fmt.Errorf("delivery %s with Held %d while at least %d are held", c.Delivery.ID, c.Held, least[hook]))
		}
		most := c.Webhook.MaxInFlight
		if most == 0 {
			most = r.MaxInFlight
		}
		if w := c.Webhook.Window; w > 0 && (most == 0 || w < most) {
			most = w
		}
		if r.Only == "" && most > 0 && c.Held > most {
			err = errors.Join(err, fmt.Errorf("delivery %s with Held %d of a webhook that may hold %d", c.Delivery.ID, c.Held, most))
		}
		b.held[c.Delivery.ID] = holding{hook, lane, c.Token, until}
		if lane == "" {
			continue
		}
		created := b.clock.local(c.Delivery.CreatedAt)
		if busy[lane] != "" {
			err = errors.Join(err, fmt.Errorf("delivery %s while %s of its lane is held", c.Delivery.ID, busy[lane]))
		}
		if created.Before(b.lanes[lane]) {
			err = errors.Join(err, fmt.Errorf("delivery %s after one of its lane that was made later", c.Delivery.ID))
		}
		busy[lane], b.lanes[lane] = c.Delivery.ID, created
	}
	return err
}
