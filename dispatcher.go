package postrider

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/postrider/postrider/internal/netguard"
	"github.com/postrider/postrider/internal/spread"
)

// maxEvents is how many events one call of EmitAll takes.
const maxEvents = 10_000

// Config says how a Dispatcher works. The zero Config is fit for production. Of every number zero means the default
// and a negative one is an error.
type Config struct {
	// Logger is told what an operator must act on; attempts that fail are logged at debug level. It never sees a
	// secret, or more of a URL than its host. slog.Default() if nil.
	Logger *slog.Logger
	// Sender makes the HTTP calls. A sender of your own replaces everything that HTTPSender does, its limits and
	// time limits too. An HTTPSender of this dispatcher's own if nil.
	Sender Sender
	// Network is what may be called: it judges URLs when webhooks are created, updated and sent to, and addresses when
	// they are dialled. An HTTPSender that the Config brings dials by its own Network. The zero value is fit for URLs
	// that strangers choose; what is meant for receivers in one's own network must be named in AllowPrefixes.
	Network Network
	// Retry plans the attempts of webhooks without a schedule of their own. More attempts over a longer time survive
	// longer outages, and keep more waiting. Jitter(DefaultSchedule(), 0.1) if nil: 10 attempts in a little over 3 days.
	Retry RetryPolicy
	// Timeout is how long one attempt may take, from the dial to the end of the body, if its webhook does not say.
	// Longer is kinder to slow receivers, and finds dead ones later. Default 15 s, at most MaxTimeout.
	Timeout time.Duration
	// MaxTimeout is the most that a webhook's own Timeout may be. What a killed process had in flight waits so long
	// and 30 s more before it is sent again, if its store outlives the process. Default 60 s, at most 1 h.
	MaxTimeout time.Duration
	// Concurrency is how many requests may be in flight, beside slow ones. More is faster as long as there are
	// processors, memory and file descriptors for it. Default 64, at most 65,536.
	Concurrency int
	// MaxInFlight is how many requests to one webhook may be in flight, if the webhook does not say. More drains a
	// backlog faster, and presses a receiver harder. Default 8, at most 10,000.
	MaxInFlight int
	// MaxSlow is how many requests that have run for 2 s may go on beside Concurrency. While so many do, webhooks
	// with a slow request get no more. More lets more slow receivers be served at once, and holds that many
	// descriptors and payloads. Default 1,024, at most 65,536.
	MaxSlow int
	// Drain is how long requests may go on after the context of Run has ended, before they are cut off and later sent
	// again. Longer means fewer duplicates, and a slower shutdown: Run returns within Drain and 1 s. Default 10 s.
	Drain time.Duration
	// Retention is how long a delivery is kept after it has ended, with its attempts; then Run deletes it, within a day,
	// and its event with the last of its deliveries. Package postgres drops whole partitions, and is later by one. A
	// delivery that has not ended is never deleted. Longer means more history, more disk, and longer protection from
	// duplicates. Default 31 days, Forever keeps everything.
	Retention time.Duration
	// BreakAfter is how many failures in a row open a webhook's breaker, if the webhook does not say. While it is open
	// nothing is sent to the webhook: 10 s at first, at most 10 min, then one request tries. Less spares a failing
	// receiver sooner, and stops for shorter troubles. Default 10, at most 1,048,576.
	BreakAfter int
	// DisableAfter is how long a webhook may do nothing but fail before it is disabled, which takes ten failures too;
	// an answer of 410 disables at once. What waits for it then waits for ResumeWebhook, or is canceled once it is
	// older than Retention. Longer is kinder, and keeps more waiting. Default 5 days, Forever never disables.
	DisableAfter time.Duration
	// MaxPending is how many deliveries may be open, of the whole store: while there are as many, Emit, EmitAll, In and
	// Replay are ErrFull, for duplicates too. A call may go past it by what it makes, and so may calls at the same time
	// and transactions that are not committed yet. It keeps a long outage from filling the disk. Off if zero.
	MaxPending int
	// MaxPayload is how many bytes an event's payload may have. Everything in flight is held in memory. Default 1 MiB,
	// at most 256 MiB.
	MaxPayload int
	// NewEventID makes the IDs of events that have none. It is called from many goroutines and returns 1 to 64 of
	// [A-Za-z0-9_-]. IDs that ascend with time are faster to store. UUIDs of version 7 if nil.
	NewEventID func() string
	// Classify, if not nil, judges answers before anything else does; the zero Decision leaves it to the webhook's
	// Success and the other rules. It is called from many goroutines, for every answer, and must not change it.
	Classify func(Response) Decision
	// Encode, if not nil, renders the body of an attempt, for receivers that want another form than payload or
	// envelope. It is called from many goroutines, for every attempt, and must not change what it gets. Its error, which
	// only the log shows, or a panic fails the attempt.
	Encode func(Draft) (Body, error)
	// Sealer, if not nil, encrypts the secrets and header values of webhooks before they reach the store; package seal
	// has one. What is stored already is sealed when it is changed next. Payloads are not sealed.
	Sealer Sealer
	// Observe, if not nil, is told what happens, in the order in which it happens to one delivery; only that its event
	// was emitted, or that it was canceled, may be told late. It is called from many goroutines, while work waits for
	// it: it must be quick, must not block, and must not call the Dispatcher.
	Observe func(Notice)
}

// withDefaults returns the Config with a value where zero stands for one, and notes its problems.
func (c Config) withDefaults(p *problems) Config {
	setDefault(p, "Config.MaxTimeout", &c.MaxTimeout, time.Minute, time.Hour)
	setDefault(p, "Config.Timeout", &c.Timeout, min(15*time.Second, max(c.MaxTimeout, 0)), time.Hour)
	if c.Timeout > c.MaxTimeout && c.MaxTimeout > 0 {
		p.add("Config.Timeout", CodeRange, "is %v, want at most Config.MaxTimeout, which is %v", c.Timeout, c.MaxTimeout)
	}
	setDefault(p, "Config.Concurrency", &c.Concurrency, 64, 1<<16)
	setDefault(p, "Config.MaxInFlight", &c.MaxInFlight, 8, maxPerHook)
	setDefault(p, "Config.MaxSlow", &c.MaxSlow, 1024, 1<<16)
	setDefault(p, "Config.Drain", &c.Drain, 10*time.Second, Forever)
	setDefault(p, "Config.Retention", &c.Retention, 31*24*time.Hour, Forever)
	setDefault(p, "Config.BreakAfter", &c.BreakAfter, 10, maxBreakAfter)
	setDefault(p, "Config.DisableAfter", &c.DisableAfter, 5*24*time.Hour, Forever)
	setDefault(p, "Config.MaxPending", &c.MaxPending, 0, math.MaxInt)
	setDefault(p, "Config.MaxPayload", &c.MaxPayload, 1<<20, 256<<20)
	c.Network.check(p, "Config.Network")
	if s, ok := c.Sender.(*HTTPSender); ok && s != nil {
		s.Network.check(p, "Config.Sender.Network")
	}
	checkRetry(p, "Config.Retry", c.Retry)
	if c.Retry == nil {
		c.Retry = Jitter(DefaultSchedule(), 0.1)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// setDefault gives a field its default if it is zero and notes it if it is out of bounds.
func setDefault[T int | time.Duration](p *problems, name string, v *T, standard, most T) {
	switch {
	case *v == 0:
		*v = standard
	case *v < 0 && most == math.MaxInt64:
		p.add(name, CodeRange, "is %v, want 0 or more", *v)
	case *v < 0 || *v > most:
		p.add(name, CodeRange, "is %v, want 0 to %v", *v, most)
	}
}

// newID returns a UUID of version 7, which ascends within the process.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// Dispatcher takes events, and delivers them while Run works. Its methods may be called from any goroutine. There is
// to be one Dispatcher for a Store value.
type Dispatcher struct {
	store   Store
	cfg     Config
	log     *slog.Logger
	guard   *netguard.Guard // of Config.Network
	own     *HTTPSender     // made by New; nil if the Config brought a sender
	running atomic.Bool
	deleted chan struct{} // buffered(1): a webhook was deleted
	awaited awaited
	pending pending
	rates   rates
}

// New returns a Dispatcher on the store. It starts nothing and reads nothing: Run does the work. The error is a
// *ValidationError with every problem of the Config. The store stays the caller's, to be closed after Run.
func New(store Store, c Config) (*Dispatcher, error) {
	var p problems
	if store == nil {
		p.add("Store", CodeRequired, "is nil, want a store")
	}
	c = c.withDefaults(&p)
	if err := p.err(); err != nil {
		return nil, err
	}
	guard, err := netguard.New(c.Network.policy())
	if err != nil {
		return nil, err // not possible: the policy was checked
	}
	d := &Dispatcher{store: store, cfg: c, log: c.Logger, guard: guard, deleted: make(chan struct{}, 1)}
	d.rates.wake = make(chan struct{}, 1)
	if c.Sender == nil {
		d.own = &HTTPSender{Network: c.Network, guard: guard, idle: c.Concurrency}
		d.cfg.Sender = d.own
	}
	return d, nil
}

// Emitter stores events. A Dispatcher is one; so is what In returns.
type Emitter interface {
	Emit(ctx context.Context, e Event) (Receipt, error)
	EmitAll(ctx context.Context, events []Event) ([]Receipt, error)
}

var (
	_ Emitter = (*Dispatcher)(nil)
	_ Emitter = emitter{}
)

// Emit stores the event and a delivery of it to every webhook of its project whose patterns match its type. A nil
// error means that they are as safe as the store keeps things: with bolt, synced to disk. If no webhook matches,
// nothing is stored. It works with and without Run, and never waits for a delivery.
//
// An event whose project and ID are stored already is a duplicate: nothing is stored, whatever its content. So after
// an error the event may be emitted again under the ID that the receipt names, until it is stored once. An error that
// is ErrInvalid, ErrFull or ErrClosed means that nothing was stored; after any other error, a context's included, it
// is unknown whether it was. Receipt.EventID is set even with an error.
func (d *Dispatcher) Emit(ctx context.Context, e Event) (Receipt, error) {
	return emitter{d, d.store, true}.Emit(ctx, e)
}

// EmitAll is Emit for up to 10,000 events in one step: all are stored, or none. One that is invalid refuses all, and
// the *ValidationError names the fields like events[3].Type. There is a receipt for each event, in their order, even
// with an error, unless there are too many events.
func (d *Dispatcher) EmitAll(ctx context.Context, events []Event) ([]Receipt, error) {
	return emitter{d, d.store, true}.EmitAll(ctx, events)
}

// In returns an Emitter that stores events in the caller's own transaction, which tx stands for: what the Tx method
// of the store returned. The events are stored if the caller commits, and Run learns of them by itself. While the
// caller holds a transaction that writes, other methods that write may block until it ends.
func (d *Dispatcher) In(tx Enqueuer) Emitter { return emitter{d, tx, false} }

// Run delivers what is due, and what becomes due, until ctx ends; then it returns nil. It is the whole life of the
// work: everything it starts has ended when it returns. A second Run at the same time is an error; another Run after
// it has returned is not.
//
// When ctx ends, nothing more is begun. Requests in flight may finish within Config.Drain; then they are cut off, and
// their deliveries are sent again by the next Run, without counting the attempt. A Sender that does not return when
// its context ends is left behind, with an error in the log. Run returns within Config.Drain and 1 s.
//
// Errors of the store are logged and tried again; while outcomes cannot be recorded, nothing more is sent. If the
// store is closed meanwhile, Run returns ErrClosed.
func (d *Dispatcher) Run(ctx context.Context) error {
	if !d.running.CompareAndSwap(false, true) {
		return errors.New("postrider: this dispatcher runs already")
	}
	defer d.running.Store(false)
	return newEngine(ctx, d).run()
}

// emitter stores events through an Enqueuer.
type emitter struct {
	d      *Dispatcher
	to     Enqueuer
	stored bool // without an error they are stored; else the caller's transaction is to decide that
}

func (m emitter) Emit(ctx context.Context, e Event) (Receipt, error) {
	items := []Item{{Event: e}}
	id := &items[0].Event.ID
	var p problems
	m.d.complete(&p, &items[0].Event, time.Now())
	if items[0].Event.check(&p, m.d.cfg.MaxPayload); len(p) > 0 {
		p.prefix(0, "Event.")
		return Receipt{EventID: *id}, p.err()
	}
	receipts, err := m.enqueue(ctx, items)
	if err != nil {
		return Receipt{EventID: *id}, fmt.Errorf("emit event %q: %w", *id, err)
	}
	return receipts[0], nil
}

func (m emitter) EmitAll(ctx context.Context, events []Event) ([]Receipt, error) {
	var p problems
	if len(events) > maxEvents {
		p.add("events", CodeRange, "has %d events, want at most %d in a call", len(events), maxEvents)
		return nil, p.err()
	}
	if len(events) == 0 {
		return []Receipt{}, nil
	}
	items := make([]Item, len(events))
	for i := range events {
		items[i].Event = events[i]
	}
	m.d.completeAll(&p, items)
	p = append(p, m.d.checkAll(items)...)
	err := p.err()
	if err == nil {
		var receipts []Receipt
		if receipts, err = m.enqueue(ctx, items); err == nil {
			return receipts, nil
		}
		err = fmt.Errorf("emit %d events: %w", len(events), err)
	}
	receipts := make([]Receipt, len(items))
	for i := range items {
		receipts[i].EventID = items[i].Event.ID
	}
	return receipts, err
}

// enqueue stores events that are valid, unless there is no room, and tells of them.
func (m emitter) enqueue(ctx context.Context, items []Item) ([]Receipt, error) {
	if err := m.d.room(ctx); err != nil {
		return nil, err
	}
	receipts, err := m.to.Enqueue(ctx, items)
	if err != nil {
		return nil, err
	}
	m.d.made(receipts)
	if !m.stored || m.d.cfg.Observe == nil {
		return receipts, nil
	}
	for i := range receipts {
		if r, e := &receipts[i], &items[i].Event; len(r.Deliveries) > 0 {
			m.d.notify(Notice{Kind: NoticeEmitted, Project: e.Project, EventID: r.EventID, EventType: e.Type, Count: len(r.Deliveries)})
		}
	}
	return receipts, nil
}

// complete fills in what an event lacks. It owns the struct and nothing behind it.
func (d *Dispatcher) complete(p *problems, e *Event, now time.Time) {
	if e.ID == "" {
		e.ID = d.newEventID(p)
	}
	if e.Time.IsZero() {
		e.Time = now
	}
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
}

// completeAll is complete for many events. IDs that the Config does not make are made at once.
func (d *Dispatcher) completeAll(p *problems, items []Item) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	lacking := 0
	for i := range items {
		if items[i].Event.ID == "" {
			lacking++
		}
	}
	// A read of randomness costs as much as the rest of an ID: one serves many.
	random := bufio.NewReaderSize(rand.Reader, min(len(uuid.UUID{})*lacking, 4<<10))
	for i := range items {
		e := &items[i].Event
		if e.ID == "" && d.cfg.NewEventID == nil {
			e.ID = uuid.Must(uuid.NewV7FromReader(random)).String()
		}
		bad := len(*p)
		if d.complete(p, e, now); len(*p) > bad {
			p.prefix(bad, index("events", i)+".")
		}
	}
}

// checkAll notes the problems of events, in their order, on all processors: to see that payloads are JSON is a third
// of what it costs to prepare many.
func (d *Dispatcher) checkAll(items []Item) problems {
	found := make([]problems, (len(items)+spread.Part-1)/spread.Part)
	spread.Over(len(items), func(from, to int) {
		p := &found[from/spread.Part]
		for i := from; i < to; i++ {
			bad := len(*p)
			if items[i].Event.check(p, d.cfg.MaxPayload); len(*p) > bad {
				p.prefix(bad, index("events", i)+".")
			}
		}
	})
	return slices.Concat(found...)
}

// newEventID makes an ID, by the Config's function if it has one. An empty ID is noted here: the check of an event lets
// it pass.
func (d *Dispatcher) newEventID(p *problems) (id string) {
	if d.cfg.NewEventID == nil {
		return newID()
	}
	defer func() {
		if v := recover(); v != nil {
			logPanic(context.Background(), d.log, "Config.NewEventID", v)
			p.add("ID", CodeRequired, "is empty because Config.NewEventID panicked, want 1 to %d of [A-Za-z0-9_-]", maxID)
		}
	}()
	if id = d.cfg.NewEventID(); id == "" {
		p.add("ID", CodeRequired, "is empty as Config.NewEventID made it, want 1 to %d of [A-Za-z0-9_-]", maxID)
	}
	return id
}
