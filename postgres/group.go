package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/postrider/postrider"
)

// group lets calls of Enqueue that come at the same time share a transaction, which costs the server much the same
// whatever it holds. There is no goroutine and no timer.
//
//	G1 A call joins the queue. If nobody leads, it leads: it takes the head of the queue as a batch, stores
//	   it, makes the next in the queue the leader, and answers its batch. A lone call waits for nobody.
//	G2 A leader leads one batch, its own, so that no caller works for others for ever.
//	G3 If nothing of a batch is stored, because of one call of it or whatever, each caller stores its own, so that each
//	   gets its own answer. If it is unknown whether it is, all get that error.
//	G4 If the context of a leader ends before the commit is sent, its batch fails as in G3.
//	G5 A follower whose context ends goes. If its batch runs already, the outcome is unknown; else nothing is stored.
//	   Since the leader reads the follower's items, they are copied, and all in them that its caller may use again.
//	G6 What may have to wait for a lock that another transaction holds for long, which is a lane's, is stored by its
//	   caller alone, and so is a call of many items. The lock of an event's key, or of a
//	   lane that was not foreseen, a leader waits for only keyPatience long.
//
// More leaders than one at a time made batches smaller, and cost the server half as much again for no more events.
type group struct {
	mu    sync.Mutex // guards what follows
	queue []*emit
	busy  bool // somebody leads, or was told to
}

const (
	maxOwn      = 100  // items of a call that shares
	maxItems    = 1000 // of a batch
	maxBytes    = 4 << 20
	keyPatience = 100 * time.Millisecond // of a batch, for locks
)

var (
	errAlone = errors.New("nothing of the batch is stored")
	errLost  = fmt.Errorf("%w: panic in an Enqueue", errUnknown)
)

// emit is one call of Enqueue.
type emit struct {
	items    []postrider.Item
	size     int           // bytes of payload
	wake     chan struct{} // buffered(1): answered, or told to lead
	running  bool          // guarded by group.mu
	leads    bool          // likewise
	receipts []postrider.Receipt
	err      error
}

// storeItems stores items in one transaction; it waits for locks for no longer than patience, if that is not 0.
type storeItems func(ctx context.Context, items []postrider.Item, patience time.Duration) ([]postrider.Receipt, error)

// submit stores the items, with those of others that wait.
func (g *group) submit(ctx context.Context, items []postrider.Item, store storeItems) ([]postrider.Receipt, error) {
	e := &emit{items: slices.Clone(items), wake: make(chan struct{}, 1)}
	for i := range e.items {
		it := &e.items[i]
		it.To, it.Event.Payload, it.Event.Metadata = slices.Clone(it.To), bytes.Clone(it.Event.Payload), maps.Clone(it.Event.Metadata)
		e.size += len(it.Event.Payload)
	}
	g.mu.Lock()
	g.queue = append(g.queue, e)
	leads := !g.busy
	g.busy = true
	g.mu.Unlock()
	if !leads {
		select {
		case <-e.wake:
			leads = e.leads
		case <-ctx.Done():
			g.abandon(e)
			return nil, ctx.Err()
		}
	}
	if leads {
		g.lead(ctx, e, store)
	}
	if errors.Is(e.err, errAlone) {
		return store(ctx, items, 0)
	}
	return e.receipts, e.err
}

// abandon takes a call out of the queue, unless it is too late.
func (g *group) abandon(e *emit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.running {
		return
	}
	for i := range g.queue {
		if g.queue[i] == e {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			break
		}
	}
	if e.leads {
		g.promoteLocked()
	}
}

// promoteLocked makes the head of the queue the leader.
func (g *group) promoteLocked() {
	g.busy = len(g.queue) > 0
	if g.busy {
		g.queue[0].leads = true
		g.queue[0].wake <- struct{}{}
	}
}

// gather lets those run that were answered last and are about to call again: for as long as the queue grows.
func (g *group) gather() {
	for known := 0; ; {
		g.mu.Lock()
		n := len(g.queue)
		g.mu.Unlock()
		if n == known {
			return
		}
		known = n
		runtime.Gosched()
	}
}

// take removes the next batch from the queue.
func (g *group) take() []*emit {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, items, size := 0, 0, 0
	for n < len(g.queue) && items < maxItems && size < maxBytes {
		g.queue[n].running = true
		items, size = items+len(g.queue[n].items), size+g.queue[n].size
		n++
	}
	batch := slices.Clone(g.queue[:n])
	g.queue = append(g.queue[:0], g.queue[n:]...)
	clear(g.queue[len(g.queue):cap(g.queue)])
	return batch
}

// lead stores a batch that own is the first of, and answers it, also if that panics.
func (g *group) lead(ctx context.Context, own *emit, store storeItems) {
	g.gather()
	batch := g.take()
	err := errLost
	var receipts []postrider.Receipt
	defer func() {
		g.mu.Lock()
		g.promoteLocked()
		g.mu.Unlock()
		for _, e := range batch {
			if e.err = err; err == nil {
				n := len(e.items)
				e.receipts, receipts = receipts[:n:n], receipts[n:]
			}
			if e != own {
				e.wake <- struct{}{}
			}
		}
	}()
	var items []postrider.Item
	for _, e := range batch {
		items = append(items, e.items...)
	}
	receipts, err = store(ctx, items, keyPatience)
	if err != nil && !errors.Is(err, errUnknown) && (len(batch) > 1 || impatient(err)) {
		err = errAlone
	}
}

// impatient reports whether a lock was not to be had in time.
func impatient(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == "55P03"
}
