package postrider

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// How long AwaitDelivery waits before it looks again, for what another process or Cancel has ended: at first, doubled
// to at most.
const (
	firstLook = 10 * time.Millisecond
	lastLook  = time.Second
)

// awaited is who waits for deliveries to end.
type awaited struct {
	n  atomic.Int64 // waiters: with none, ended costs no more than to see that
	mu sync.Mutex   // guards byID
	// Whoever waits for a delivery shares its channel, which is closed when it ends.
	byID map[string]*ending
}

type ending struct {
	done    chan struct{}
	waiters int
}

// join counts the caller in before it looks at the delivery: then either it sees the end, or whoever records the end
// sees it.
func (a *awaited) join(id string) *ending {
	a.n.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.byID[id]
	if e == nil {
		e = &ending{done: make(chan struct{})}
		if a.byID == nil {
			a.byID = map[string]*ending{}
		}
		a.byID[id] = e
	}
	e.waiters++
	return e
}

func (a *awaited) leave(id string, e *ending) {
	a.n.Add(-1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.waiters--; e.waiters == 0 && a.byID[id] == e {
		delete(a.byID, id)
	}
}

// ended wakes those that wait for the delivery: its final status has been recorded.
func (d *Dispatcher) ended(id string) {
	a := &d.awaited
	if a.n.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.byID[id]; e != nil {
		delete(a.byID, id)
		close(e.done)
	}
}

// AwaitDelivery returns the delivery once it has ended, at once if it has already. What this Dispatcher's Run records
// it returns without delay; what ends otherwise, by Cancel or in another process, it finds within a second. It does
// not end by itself: bound it by ctx, whose error it then returns. ErrNotFound: there is none, or it was pruned.
func (d *Dispatcher) AwaitDelivery(ctx context.Context, id string) (Delivery, error) {
	e := d.awaited.join(id)
	defer func() { d.awaited.leave(id, e) }()
	timer := time.NewTimer(Forever)
	defer timer.Stop()
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		v, err := d.Delivery(ctx, id)
		if err != nil || v.Status.Final() {
			return v, err
		}
		timer.Reset(pause)
		select {
		case <-e.done: // if the outcome was not taken, there will be another end
			d.awaited.leave(id, e)
			e = d.awaited.join(id)
		case <-timer.C:
		case <-ctx.Done():
			return Delivery{}, ctx.Err()
		}
	}
}
