package postrider

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"
)

// replayBatch is how many deliveries Replay looks at, and makes, at once.
const replayBatch = 500

// ReplayRequest says what is to be sent again, and where to.
type ReplayRequest struct {
	// Query selects deliveries. Offset, Limit, Cursor and Ascending must be zero: it stands for all that it selects.
	// Tests are left out unless Query.Test is ChoiceYes.
	Query DeliveryQuery
	// To is the ID of the webhook that gets the events; each delivery's own if empty. Of other projects than the
	// webhook's nothing is looked at.
	To string
	// Missing leaves out events that the webhook has been delivered or that are on their way to it. Without To it also
	// leaves out deliveries that are not FAILED.
	Missing bool
	// DryRun makes nothing, and counts what the next call would make if nothing else changes. With To, or ReplayOf in
	// the Query, it takes memory for each event.
	DryRun bool
	// Progress, if not nil, is told how far it is after each batch, by the goroutine that called Replay.
	Progress func(ReplayResult)
	// Cursor of a *ReplayError goes on where that call ended; the other fields but Progress must be the same.
	Cursor string
}

// ReplayResult counts what one call of Replay did. Examined is the sum of the others.
type ReplayResult struct {
	Examined int // deliveries that the query selected
	Made     int // new deliveries; of a DryRun, those that would be made
	Skipped  int // deliveries that were left out, for one of the reasons that Replay names
}

// ReplayError says that Replay ended before its end. Err says why: ErrFull, ErrStore, the error of the context.
type ReplayError struct {
	// Cursor in the same request goes on. No delivery is made twice, also if Err leaves open whether the last ones were
	// made. Empty: nothing was made, so that the same request begins anew; so it is of a DryRun that
	// has to remember what it has counted.
	Cursor string
	Err    error
}

// Error returns what Err says.
func (e *ReplayError) Error() string { return "replay: " + e.Err.Error() }

// Unwrap returns Err.
func (e *ReplayError) Unwrap() error { return e.Err }

// Replay sends again what the query selects, whether or not it was delivered: for each delivery it makes a new one,
// with ReplayOf, of the same event. The new ones are like others: they respect the webhook's limits, its state and its
// schedule, and are signed with today's secrets; but they wait in no lane. Two calls make two of each.
//
// It goes through the deliveries in their order, oldest first, up to the newest there is when it begins, in batches
// with pauses between. It leaves out, and counts as Skipped: deliveries that have not ended, if they are on their way
// to the same webhook (Retry is for them); without To those of webhooks that have been deleted, and replays, unless
// the query names them by ID or ReplayOf; those that Missing leaves out; and each event that the webhook has got in
// this replay already.
//
// An error before anything began is ErrInvalid, or ErrNotFound for To or the query's WebhookName. Every other one is a
// *ReplayError, with the cursor that goes on; ErrNotFound if To was deleted meanwhile. The result counts what this call did, also with an error; deliveries
// that an earlier call made without learning of it count as Skipped. ErrFull: see Config.MaxPending.
func (d *Dispatcher) Replay(ctx context.Context, r ReplayRequest) (ReplayResult, error) {
	x := &replay{d: d, r: &r, gone: map[string]bool{}, seed: maphash.MakeSeed()}
	if err := x.check(); err != nil {
		return ReplayResult{}, err
	}
	err := x.begin(ctx)
	if errors.Is(err, ErrNotFound) {
		return ReplayResult{}, err
	}
	if err == nil {
		err = x.run(ctx)
	}
	if err != nil {
		if x.r.DryRun && x.had != nil {
			x.at = replayCursor{} // what it has counted is known to this call alone
		}
		return x.result, &ReplayError{x.at.encode(), err}
	}
	return x.result, nil
}

// replay is one call of Replay.
type replay struct {
	d      *Dispatcher
	r      *ReplayRequest
	q      DeliveryQuery // what is walked
	target Webhook       // To, if set
	at     replayCursor  // the page that is next; zero before anything is selected
	result ReplayResult
	gone   map[string]bool // webhooks that the present batch has looked up: whether they are deleted

	// Webhooks and events, hashed, that had their delivery; nil if the query cannot select two of one. In a dry run it
	// is of all batches; otherwise of one: what the earlier ones have made the store knows, by the run.
	had  map[uint64]struct{}
	seed maphash.Seed
}

// check judges the request, and takes its cursor.
func (x *replay) check() error {
	var p problems
	if checkWhole(&p, x.r.Query); x.r.Query.Ascending {
		p.add("DeliveryQuery.Ascending", CodeRange, "is true, want false: a replay has an order of its own")
	}
	if len(p) > 0 || x.r.Cursor == "" {
		return p.err()
	}
	switch {
	case !x.at.decode(x.r.Cursor):
		p.add("ReplayRequest.Cursor", CodeFormat, "does not parse, want that of a *ReplayError, or empty")
	case x.at.Request != x.r.hash():
		p.add("ReplayRequest.Cursor", CodeFormat, "belongs to another request, want that of a *ReplayError of the same, or empty")
	}
	return p.err()
}

// begin makes the query that is walked, and of a new replay the position and the bound.
func (x *replay) begin(ctx context.Context) error {
	selected, err := x.narrow(ctx)
	if err != nil {
		return err
	}
	if !selected {
		x.at = replayCursor{} // of a webhook that had the name when the cursor was made
		return nil
	}
	if x.r.To != "" || x.r.Query.ReplayOf != "" {
		x.had = map[uint64]struct{}{}
	}
	if x.r.Cursor == "" {
		newest, err := x.d.newest(ctx, x.q)
		if err != nil || newest.ID == "" {
			return err
		}
		x.at = replayCursor{Version: 1, Request: x.r.hash(), Run: newID(), Last: newest.ID, Until: newest.CreatedAt.UnixMicro()}
	}
	// Creation times ascend with commits. So this bounds the walk also if the newest is no longer selected, and that
	// its ID is met bounds it also while the clock stands still.
	if until := time.UnixMicro(x.at.Until).UTC(); x.q.To.IsZero() || until.Before(x.q.To) {
		x.q.To = until
	}
	x.q.Ascending, x.q.Limit = true, replayBatch
	return nil
}

// narrow makes the query that is walked out of the request's. It reports whether that selects anything at all.
func (x *replay) narrow(ctx context.Context) (selected bool, err error) {
	q, none, err := x.d.resolve(ctx, x.r.Query)
	if err != nil || none {
		return false, err
	}
	if x.r.To != "" {
		if x.target, err = x.d.Webhook(ctx, x.r.To); err != nil {
			return false, err
		}
		q.Project = cmp.Or(q.Project, x.target.Project)
		if q.Project != x.target.Project {
			return false, nil
		}
	}
	if q.Test == ChoiceAny {
		q.Test = ChoiceNo
	}
	if x.r.Missing && x.r.To == "" {
		if len(q.Statuses) > 0 && !slices.Contains(q.Statuses, StatusFailed) {
			return false, nil
		}
		q.Statuses = []Status{StatusFailed}
	}
	x.q = q
	return true, nil
}

// newest returns the newest delivery that the query selects, or the zero Delivery.
func (d *Dispatcher) newest(ctx context.Context, q DeliveryQuery) (Delivery, error) {
	q.Limit = 1
	for v, err := range d.All(ctx, q) {
		return v, err
	}
	return Delivery{}, nil
}

// run walks page by page. It counts and moves on only what was done.
func (x *replay) run(ctx context.Context) error {
	for x.at.Run != "" {
		x.q.Cursor = x.at.Page
		page, err := x.d.store.Deliveries(ctx, x.q)
		if err != nil {
			return err
		}
		last := page.Next == ""
		if i := slices.IndexFunc(page.Items, func(v Delivery) bool { return v.ID == x.at.Last }); i >= 0 {
			page.Items, last = page.Items[:i+1], true
		}
		wrote, err := x.batch(ctx, page.Items)
		if err != nil {
			return err
		}
		x.at.Page = page.Next
		if x.r.Progress != nil && len(page.Items) > 0 {
			x.r.Progress(x.result)
		}
		if last {
			return nil
		}
		if wrote && !pauseFor(ctx, prunePause) {
			return ctx.Err()
		}
	}
	return nil
}

// batch does one page. After an error none of it is counted, and it is done again.
func (x *replay) batch(ctx context.Context, page []Delivery) (wrote bool, err error) {
	clear(x.gone)
	if !x.r.DryRun {
		clear(x.had)
	}
	examined := 0
	var items []Item
	for i := range page {
		v := &page[i]
		if x.r.To != "" && v.Project != x.target.Project {
			continue // the empty project: a query cannot ask for it
		}
		examined++
		to := cmp.Or(x.r.To, v.WebhookID)
		wanted, err := x.wants(ctx, v, to)
		if err != nil {
			return false, err
		}
		if wanted {
			items = append(items, Item{
				Event: Event{Project: v.Project, ID: v.EventID}, To: []string{to}, ReplayOf: v.ID, Run: x.at.Run, Test: v.Test,
			})
		}
	}
	made := len(items)
	if !x.r.DryRun && len(items) > 0 {
		if made, err = x.enqueue(ctx, items); err != nil {
			return false, err
		}
	}
	x.result.Examined += examined
	x.result.Made += made
	x.result.Skipped += examined - made
	return made > 0 && !x.r.DryRun, nil
}

// wants reports whether a delivery is to be sent again, to a webhook.
func (x *replay) wants(ctx context.Context, v *Delivery, to string) (bool, error) {
	if !v.Status.Final() && v.WebhookID == to {
		return false, nil
	}
	if x.r.To == "" && v.ReplayOf != "" && x.r.Query.ID == "" && x.r.Query.ReplayOf == "" {
		return false, nil
	}
	if gone, err := x.isGone(ctx, to); err != nil || gone {
		return false, err
	}
	if x.had != nil {
		var h maphash.Hash
		h.SetSeed(x.seed)
		h.WriteString(to + "/" + v.EventID)
		if _, had := x.had[h.Sum64()]; had {
			return false, nil
		}
		x.had[h.Sum64()] = struct{}{}
	}
	if !x.r.Missing {
		return true, nil
	}
	has, err := x.d.newest(ctx, DeliveryQuery{
		Project: v.Project, EventID: v.EventID, WebhookID: to,
		Statuses: []Status{StatusNew, StatusInProcess, StatusDelivered},
	})
	return has.ID == "", err
}

// isGone reports whether a webhook has been deleted. That To has is an error: nothing more can be made.
func (x *replay) isGone(ctx context.Context, id string) (bool, error) {
	gone, known := x.gone[id]
	if known {
		return gone, nil
	}
	_, err := x.d.store.Webhook(ctx, id) // it need not be opened
	if gone = errors.Is(err, ErrNotFound); err != nil && (!gone || id == x.r.To) {
		return false, err
	}
	x.gone[id] = gone
	return gone, nil
}

// enqueue makes the deliveries and returns how many.
func (x *replay) enqueue(ctx context.Context, items []Item) (made int, err error) {
	if err := x.d.room(ctx); err != nil {
		return 0, err
	}
	receipts, err := x.d.store.Enqueue(ctx, items)
	if errors.Is(err, ErrNotFound) && len(items) > 1 {
		// A webhook was deleted or an event pruned just now, which refuses all: find out which.
		for i := range items {
			n, err := x.enqueue(ctx, items[i:i+1])
			if err != nil {
				return 0, err
			}
			made += n
		}
		return made, nil
	}
	if errors.Is(err, ErrNotFound) {
		clear(x.gone)
		_, err = x.isGone(ctx, items[0].To[0]) // that To has been deleted is an error, the last batch too
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	x.d.made(receipts)
	for i := range receipts {
		made += len(receipts[i].Deliveries)
	}
	return made, nil
}
