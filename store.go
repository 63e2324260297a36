package postrider

import (
	"context"
	"math"
	"time"
)

// Forever is a wait without end, and a retention that keeps everything.
const Forever time.Duration = math.MaxInt64

// Enqueuer stores events. A Store is one; so is what a store's Tx returns, for the caller's own transaction.
type Enqueuer interface {
	// Enqueue stores each item's event and makes its deliveries, and returns one receipt per item, in their order.
	//
	//  - All items of a call are stored, or none: an error leaves nothing behind.
	//  - A nil error means that what was stored survives a crash, if the store survives crashes at all.
	//  - An item whose To is nil goes to every webhook of the event's project whose patterns match its type, paused
	//    and disabled ones too, deleted ones never.
	//  - An item whose To is set goes to just those webhooks; one that is not in the event's project is ErrNotFound.
	//  - An event whose project and ID are stored already is a duplicate: nothing is stored for it, and its receipt
	//    says so. The same holds for the second of two in one call.
	//  - An event that goes to no webhook is not stored and makes no later event a duplicate.
	//  - An item with ReplayOf makes new deliveries of a stored event, else ErrNotFound, and is never a duplicate.
	//  - An item with a Run makes no delivery for a webhook for which that Run has made one of the event already; if
	//    there is none left to make, its receipt says Duplicate.
	//  - Each delivery is due at once and carries the item's Test and ReplayOf.
	//  - A delivery takes a lane for good: its webhook's if that is Ordered, else that of the event's OrderKey at the
	//    webhook, else none. Replays and tests take none.
	//  - Payload and every other field of an event come back exactly as they were given, times to the microsecond.
	//
	// Events are valid and have an ID and a Time; the Dispatcher sees to that. Besides the errors above it returns
	// ErrFull and ErrClosed (nothing was stored), and any other error, a context's included, leaves the outcome
	// unknown: the caller may call again with the same IDs.
	Enqueue(ctx context.Context, items []Item) ([]Receipt, error)
}

// Store keeps webhooks, events, deliveries and attempts, and hands out deliveries that are due. It decides where
// things are kept and who may work on them; what to retry, when to give up and whom to slow down is the Dispatcher's.
//
// Rules for every method:
//
//   - Methods may be called at the same time from any goroutine.
//   - Each call is atomic, and bounded: what could touch a million rows does a part and says whether there is more.
//   - Durations come from the caller, instants from the store's own clock.
//   - A store keeps no slice or map it is given, and returns none that it will write to.
//   - A store starts no goroutine that outlives the call. After Close every method returns ErrClosed.
//   - An argument with a Validate method that fails it is ErrInvalid with its *ValidationError, and nothing is done;
//     webhooks and events the Dispatcher has checked.
//   - A context that has ended makes a call return its error.
//   - IDs and cursors that cannot be the store's own are ErrNotFound and ErrInvalid, never another error.
//
// A new store is finished when storetest.Run passes; a case that fails prints the sentence of this page that it checks.
type Store interface {
	Enqueuer

	// Claim hands out deliveries that are due: each to one caller at a time, with the event and the webhook.
	//
	//  - A delivery that is claimed is not handed out again until the claim is completed or its lease is over.
	//  - A claim whose lease is over is lost: the delivery is due at once and goes out again under another token.
	//  - A token never repeats, also after the store was opened again.
	//  - Of one webhook, the delivery that is due longest goes first.
	//  - Webhooks take turns: a webhook with a long backlog does not keep the others waiting.
	//  - At most Max are handed out, and of a webhook at most what Limits says, or else Each.
	//  - Of one webhook at most MaxInFlight are held at any time, over all callers; the webhook's own MaxInFlight goes
	//    before the request's, and a Window that is set and smaller before both.
	//  - Nothing of a webhook is handed out while it is paused, disabled or deleted, or its NotBefore is ahead.
	//  - A delivery that waits for its next attempt is not handed out before it is due.
	//  - Of one lane a delivery is handed out only when all that were committed before it have ended.
	//  - Only names one delivery, which is handed out if it is open and not held, due or not, whatever its webhook's
	//    state and limits; unless that webhook is deleted, or others of its lane come first.
	//  - Held says how many claims of the webhook were held with this one, over all callers.
	//  - A claim is counted nowhere until it is completed; Delivery.Status is as before, Delivery.InFlight is true.
	//
	// wait is the time after which another call may find more without anything else happening, Forever if nothing
	// waits for a time to come, 0 if Max was reached. Deliveries kept back by Limits, Each or MaxInFlight do not count
	// for wait: they become due through the caller.
	Claim(ctx context.Context, r ClaimRequest) (claims []Claim, wait time.Duration, err error)

	// Complete records what became of claims, and returns how many outcomes it recorded, releases included.
	//
	//  - Attempt, status, next due time, counters and the webhook's change are recorded in one step.
	//  - The outcome of a claim that is no longer held changes nothing and is not counted in n.
	//  - An outcome without an Attempt releases the claim: the delivery is as it was before, with the due time it had.
	//  - With StatusInProcess the delivery is due again after RetryIn.
	//  - A final status never changes.
	//  - An outcome of a delivery that was canceled meanwhile, or whose webhook was deleted, ends it: StatusDelivered
	//    stands, everything else, a release too, becomes StatusCanceled. Its attempt is recorded all the same.
	//  - A WebhookChange sets NotBefore, but never to an earlier time than it has.
	//  - A WebhookChange sets the webhook's Window.
	//  - A WebhookChange with Failing counts a failure and starts FailingSince; one without clears both.
	//  - A WebhookChange with Disable disables the webhook with that reason.
	//  - A WebhookChange with Health, or Aside, does what its Apply makes of the webhook as it is at that moment.
	//
	// An invalid outcome is ErrInvalid for the whole call. After any error the claims are still held, or recorded:
	// calling again with the same outcomes is safe.
	Complete(ctx context.Context, outcomes []Outcome) (n int, err error)

	// Wait returns nil when something may have become due for another reason than time passing: an Enqueue, a commit
	// of the caller's transaction, a webhook that was resumed or changed, a claim that was completed or released, a Change. It
	// may return without cause, but never misses one that came after the last Claim. One caller at a time.
	Wait(ctx context.Context) error

	// CreateWebhook stores a new webhook with Version 1, and CreatedAt and UpdatedAt from the store's clock. ErrExists:
	// the ID is or was in use, or the name is in use within the project.
	CreateWebhook(ctx context.Context, w Webhook) error

	// UpdateWebhook replaces the webhook with this ID if its stored Version is w.Version, else ErrConflict; Version
	// goes up by one, as it does with a WebhookChange. ID, Project and CreatedAt stay. ErrExists: the new name is in use
	// within the project. ErrNotFound: no such webhook, or it is deleted.
	UpdateWebhook(ctx context.Context, w Webhook) error

	// DeleteWebhook takes the webhook away: nothing of it is claimed any more, and its name is free, though its ID is
	// not. Its deliveries stay; Change cancels those that wait. The call does not touch them, however many. ErrNotFound:
	// no such webhook, or it is deleted.
	DeleteWebhook(ctx context.Context, id string) error

	// Webhook returns the webhook, or ErrNotFound.
	Webhook(ctx context.Context, id string) (Webhook, error)

	// Webhooks returns a page of webhooks in the order of their creation.
	Webhooks(ctx context.Context, q WebhookQuery) (Page[Webhook], error)

	// Event returns the event with this ID in the project, or ErrNotFound.
	Event(ctx context.Context, project, id string) (Event, error)

	// Delivery returns the delivery and its attempts in their order, or ErrNotFound.
	Delivery(ctx context.Context, id string) (Delivery, []Attempt, error)

	// Deliveries returns a page of deliveries.
	//
	//  - A page holds at most Limit rows that the query selects, in the order of commits, newest first or Ascending.
	//    What was committed at the same time stands in any order.
	//  - Walking from page to page by Next meets every row that was there at the start and still is just once, also
	//    while rows are added and change their status.
	//  - A cursor that does not parse or belongs to another query is ErrInvalid.
	Deliveries(ctx context.Context, q DeliveryQuery) (Page[Delivery], error)

	// Attempts returns a page of finished attempts, under the same rules as Deliveries.
	Attempts(ctx context.Context, q AttemptQuery) (Page[Attempt], error)

	// Stats returns counts from counters, never from a scan.
	//
	//  - They equal what a walk over all deliveries would count.
	//  - A delivery that waits for its turn in a lane is not due; one that waits for a retry is, from the beginning of
	//    the minute of its NextAt.
	//  - OldestDue is the least NextAt of those that are due, in flight or not.
	//  - Rates are there only if the query asks for them, and count attempts by the minute and hour, in UTC, in which
	//    they were recorded.
	Stats(ctx context.Context, q StatsQuery) (Stats, error)

	// Change does one thing to open deliveries, to at most c.Max of them, and says whether there may be more to do.
	//
	//  - ChangeDue makes those that wait due now.
	//  - ChangeCancel cancels them; one that is claimed ends when its outcome arrives or, once its lease is over, at the
	//    next Claim.
	//  - An Age leaves out what was created less than so long ago.
	//  - Ended deliveries never change and are not counted in n.
	//
	// more false means that nothing was left when the call ended.
	Change(ctx context.Context, c Change) (n int, more bool, err error)

	// Prune deletes at most max deliveries that ended at least age ago, with their attempts, and events without
	// deliveries, whose IDs are then free again. It never deletes a delivery that has not ended. A store that drops what
	// is old by the part may delete more at a time, and later.
	Prune(ctx context.Context, age time.Duration, max int) (n int, more bool, err error)

	// Close ends the store's use; a second call returns nil. It waits for calls that are under way, except Wait,
	// which returns ErrClosed.
	Close() error
}

// Item is one event to store.
type Item struct {
	Event    Event
	To       []string // webhook IDs, distinct; nil: every webhook of the project whose patterns match
	ReplayOf string   // the delivery that is sent again; of Event only Project and ID are read
	Run      string   // of a replay: an event goes to a webhook once in its name, while that delivery is kept; a UUID, or "": no bound
	Test     bool
}

// Receipt says what became of an event.
type Receipt struct {
	EventID    string   // set even with an error
	Deliveries []string // the IDs of the deliveries that were made, in the order of the webhooks' creation
	Duplicate  bool     // the event was there already; nothing was stored
}

// ClaimRequest says what a caller can take.
type ClaimRequest struct {
	Max         int            // claims in all; at least 1
	Lease       time.Duration  // how long the claims are held; more than 0
	MaxInFlight int            // what a webhook whose own MaxInFlight is 0 may hold; 0: no limit
	Limits      map[string]int // at most so many of a webhook in this call; 0: none; absent: Each
	Each        int            // at most so many of a webhook that Limits does not name; 0: no limit of the caller's
	Only        string         // one delivery, whatever its webhook's state
}

// Validate reports every problem of the request in a *ValidationError.
func (r *ClaimRequest) Validate() error {
	var p problems
	within(&p, "ClaimRequest.Max", r.Max, 1, 1<<20)
	within(&p, "ClaimRequest.Lease", r.Lease, 1, maxDuration)
	within(&p, "ClaimRequest.MaxInFlight", r.MaxInFlight, 0, 1<<20)
	within(&p, "ClaimRequest.Each", r.Each, 0, 1<<20)
	return p.err()
}

// Claim is a delivery in the hands of one caller. Nothing in it may be changed: stores share it.
type Claim struct {
	Delivery Delivery
	Event    Event
	Webhook  Webhook // as it is now
	Token    string  // 1 to 64 bytes; to be given back in the Outcome
	Held     int     // claims of the webhook that are held, this one included
}

// Outcome is what became of a claim.
type Outcome struct {
	DeliveryID string
	Token      string
	Attempt    *Attempt       // nil: released, not counted; the fields below but Webhook are then not read
	Status     Status         // after it: StatusInProcess, StatusDelivered, StatusCanceled or StatusFailed
	RetryIn    time.Duration  // when it is due again, if StatusInProcess; 0 or more
	Webhook    *WebhookChange // nil: none; applied in the same transaction
}

// Validate reports every problem of the outcome in a *ValidationError.
func (o *Outcome) Validate() error {
	if o.Attempt == nil {
		return nil
	}
	var p problems
	o.Attempt.check(&p)
	p.prefix(0, "Outcome.Attempt.")
	if o.Attempt.DeliveryID != o.DeliveryID {
		p.add("Outcome.Attempt.DeliveryID", CodeRange, "is %s, want the outcome's own, %s", quote(o.Attempt.DeliveryID), quote(o.DeliveryID))
	}
	if o.Status < StatusInProcess || o.Status > StatusFailed {
		p.add("Outcome.Status", CodeRange, "is %s, want IN_PROCESS, DELIVERED, CANCELED or FAILED", o.Status)
	}
	if o.Attempt.Failed && o.Status == StatusDelivered {
		p.add("Outcome.Status", CodeRange, "is %s with a failed attempt, want IN_PROCESS, CANCELED or FAILED", o.Status)
	}
	within(&p, "Outcome.RetryIn", o.RetryIn, 0, maxDuration)
	if o.Webhook != nil {
		within(&p, "Outcome.Webhook.Hold", o.Webhook.Hold, 0, maxDuration)
		within(&p, "Outcome.Webhook.Window", o.Webhook.Window, 0, maxPerHook)
		if h := o.Webhook.Health; h != nil {
			within(&p, "Outcome.Webhook.Health.BreakAfter", h.BreakAfter, 1, maxBreakAfter)
			within(&p, "Outcome.Webhook.Health.DisableAfter", h.DisableAfter, 0, Forever)
			within(&p, "Outcome.Webhook.Health.MaxInFlight", h.MaxInFlight, 1, maxPerHook)
			within(&p, "Outcome.Webhook.Health.Full", h.Full, 0, maxPerHook)
		}
	}
	return p.err()
}

// ChangeKind is what a Change does.
type ChangeKind uint8

// The kinds of changes.
const (
	ChangeDue    ChangeKind = iota // due now
	ChangeCancel                   // canceled
)

// Change is something to be done to open deliveries.
type Change struct {
	Kind    ChangeKind
	Query   DeliveryQuery // which; Ascending, Limit and Cursor are not read
	Deleted bool          // those of deleted webhooks instead of Query; only with ChangeCancel
	Age     time.Duration // only what was created at least so long ago; 0: however young
	Max     int           // at most so many in this call, 1 to 10,000
}

// Validate reports every problem of the change in a *ValidationError.
func (c *Change) Validate() error {
	var p problems
	within(&p, "Change.Kind", int(c.Kind), 0, int(ChangeCancel))
	within(&p, "Change.Max", c.Max, 1, 10_000)
	within(&p, "Change.Age", c.Age, 0, maxDuration)
	if c.Deleted && c.Kind != ChangeCancel {
		p.add("Change.Deleted", CodeRange, "is true with ChangeDue, want ChangeCancel")
	}
	if err, ok := c.Query.Validate().(*ValidationError); ok {
		p = append(p, err.Fields...)
	}
	return p.err()
}
