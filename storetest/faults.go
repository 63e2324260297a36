package storetest

import (
	"context"
	"sync"
	"time"

	"github.com/postrider/postrider"
)

// When says when a Fault fails.
type When uint8

// The kinds of faults.
const (
	Before When = iota // nothing is done, then Err
	After              // it is done, then Err: the caller cannot know
	Hang               // nothing is done; the call returns its context's error once that has ended
)

// Fault is how calls of one method fail.
type Fault struct {
	Method string // such as "Complete"
	When   When
	Err    error // ErrStore if nil
	Times  int   // how many calls fail; 0: all until Clear
}

// Faults is a Store whose methods fail on demand: all but Close. It is safe for use by several goroutines, and works
// as Store does until Fail is called.
type Faults struct {
	postrider.Store

	mu     sync.Mutex // guards what follows
	faults map[string]*Fault
	calls  map[string]int
}

var _ postrider.Store = (*Faults)(nil)

// NewFaults returns a store that does what s does.
func NewFaults(s postrider.Store) *Faults {
	return &Faults{Store: s, faults: map[string]*Fault{}, calls: map[string]int{}}
}

// Fail makes calls that begin from now on fail. It replaces an earlier fault of the same method.
func (f *Faults) Fail(fault Fault) {
	if fault.Err == nil {
		fault.Err = postrider.ErrStore
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[fault.Method] = &fault
}

// Clear ends the fault of a method. Calls that hang go on to do so.
func (f *Faults) Clear(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.faults, method)
}

// Calls returns how many calls of the method began so far, failed ones too.
func (f *Faults) Calls(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// next counts a call and returns its fault, nil if it is to work.
func (f *Faults) next(method string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	fault := f.faults[method]
	if fault == nil {
		return nil
	}
	now := *fault
	if fault.Times > 0 {
		if fault.Times--; fault.Times == 0 {
			delete(f.faults, method)
		}
	}
	return &now
}

// do runs call with the method's fault around it, and reports whether its answer is to be given.
func (f *Faults) do(ctx context.Context, method string, call func() error) (ok bool, err error) {
	fault := f.next(method)
	switch {
	case fault == nil:
		return true, call()
	case fault.When == Hang:
		<-ctx.Done()
		return false, ctx.Err()
	case fault.When == After:
		_ = call()
	}
	return false, fault.Err
}

// answer is do for a method that returns a value.
func answer[T any](ctx context.Context, f *Faults, method string, call func() (T, error)) (T, error) {
	var v, none T
	ok, err := f.do(ctx, method, func() (err error) { v, err = call(); return err })
	if !ok {
		return none, err
	}
	return v, err
}

// Enqueue is Store's, unless it is to fail. So is every method that follows.
func (f *Faults) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	return answer(ctx, f, "Enqueue", func() ([]postrider.Receipt, error) { return f.Store.Enqueue(ctx, items) })
}

func (f *Faults) Claim(ctx context.Context, r postrider.ClaimRequest) (claims []postrider.Claim, wait time.Duration, err error) {
	ok, err := f.do(ctx, "Claim", func() (err error) { claims, wait, err = f.Store.Claim(ctx, r); return err })
	if !ok {
		return nil, 0, err
	}
	return claims, wait, err
}

func (f *Faults) Complete(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
	return answer(ctx, f, "Complete", func() (int, error) { return f.Store.Complete(ctx, outcomes) })
}

func (f *Faults) Wait(ctx context.Context) error {
	_, err := f.do(ctx, "Wait", func() error { return f.Store.Wait(ctx) })
	return err
}

func (f *Faults) CreateWebhook(ctx context.Context, w postrider.Webhook) error {
	_, err := f.do(ctx, "CreateWebhook", func() error { return f.Store.CreateWebhook(ctx, w) })
	return err
}

func (f *Faults) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	_, err := f.do(ctx, "UpdateWebhook", func() error { return f.Store.UpdateWebhook(ctx, w) })
	return err
}

func (f *Faults) DeleteWebhook(ctx context.Context, id string) error {
	_, err := f.do(ctx, "DeleteWebhook", func() error { return f.Store.DeleteWebhook(ctx, id) })
	return err
}

func (f *Faults) Webhook(ctx context.Context, id string) (postrider.Webhook, error) {
	return answer(ctx, f, "Webhook", func() (postrider.Webhook, error) { return f.Store.Webhook(ctx, id) })
}

func (f *Faults) Webhooks(ctx context.Context, q postrider.WebhookQuery) (postrider.Page[postrider.Webhook], error) {
	return answer(ctx, f, "Webhooks", func() (postrider.Page[postrider.Webhook], error) { return f.Store.Webhooks(ctx, q) })
}

func (f *Faults) Event(ctx context.Context, project, id string) (postrider.Event, error) {
	return answer(ctx, f, "Event", func() (postrider.Event, error) { return f.Store.Event(ctx, project, id) })
}

func (f *Faults) Delivery(ctx context.Context, id string) (d postrider.Delivery, attempts []postrider.Attempt, err error) {
	ok, err := f.do(ctx, "Delivery", func() (err error) { d, attempts, err = f.Store.Delivery(ctx, id); return err })
	if !ok {
		return postrider.Delivery{}, nil, err
	}
	return d, attempts, err
}

func (f *Faults) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
	return answer(ctx, f, "Deliveries", func() (postrider.Page[postrider.Delivery], error) { return f.Store.Deliveries(ctx, q) })
}

func (f *Faults) Attempts(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
	return answer(ctx, f, "Attempts", func() (postrider.Page[postrider.Attempt], error) { return f.Store.Attempts(ctx, q) })
}

func (f *Faults) Stats(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
	return answer(ctx, f, "Stats", func() (postrider.Stats, error) { return f.Store.Stats(ctx, q) })
}

func (f *Faults) Change(ctx context.Context, c postrider.Change) (n int, more bool, err error) {
	ok, err := f.do(ctx, "Change", func() (err error) { n, more, err = f.Store.Change(ctx, c); return err })
	if !ok {
		return 0, false, err
	}
	return n, more, err
}

func (f *Faults) Prune(ctx context.Context, age time.Duration, most int) (n int, more bool, err error) {
	ok, err := f.do(ctx, "Prune", func() (err error) { n, more, err = f.Store.Prune(ctx, age, most); return err })
	if !ok {
		return 0, false, err
	}
	return n, more, err
}
