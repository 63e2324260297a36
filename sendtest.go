package postrider

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// testPayload is what a test event holds.
const testPayload = `{"test":true,"message":"This is a test event. Nothing has happened."}`

// testTime is for what SendTest still has to do when its context may have ended: to record, and to cancel.
const testTime = 5 * time.Second

// What SendTest answers when there was no attempt, beside the errors of the context and the store.
var (
	errNoMeans   = errors.New("this machine lacks the means to send, such as file descriptors")
	errClaimLost = errors.New("the claim was lost before its attempt was recorded")
)

// SendTest sends an event of type TEST to one webhook, now, and returns the attempt: that it failed is data, not an
// error. The webhook gets it whatever its patterns are, also while it is paused, disabled or held back, and with or
// without Run. The event, its delivery and the attempt are stored and shown like any others; there is one attempt,
// after which the delivery is DELIVERED or FAILED, and neither bears on the health of the webhook.
//
// ctx bounds it, but for the seconds in which it records the attempt, or cancels the delivery: after an error that is
// canceled, so that it is not sent later, and the Attempt is zero unless there was one that could not be recorded.
// ErrNotFound: no such webhook.
func (d *Dispatcher) SendTest(ctx context.Context, webhookID string) (Attempt, error) {
	a, err := d.sendTest(ctx, webhookID)
	if d.own != nil && !d.running.Load() {
		d.own.CloseIdleConnections() // else the end of Run does
	}
	if err != nil {
		return a, fmt.Errorf("test webhook %s: %w", quote(webhookID), err)
	}
	return a, nil
}

func (d *Dispatcher) sendTest(ctx context.Context, webhookID string) (Attempt, error) {
	w, err := d.store.Webhook(ctx, webhookID)
	if err != nil {
		return Attempt{}, err
	}
	id, err := d.storeTest(ctx, &w)
	if err != nil {
		return Attempt{}, err
	}
	only := DeliveryQuery{ID: id}
	claim, a, err := d.claimTest(ctx, &w, id)
	if err != nil {
		return Attempt{}, errors.Join(err, d.dropTest(ctx, only, nil))
	}
	if claim == nil {
		return a, nil
	}
	out, result := caller{&d.cfg, d.log, d.guard, nil}.attempt(ctx, claim, &prepared{webhook: claim.Webhook})
	switch result {
	case resultLocal:
		return Attempt{}, errors.Join(errNoMeans, d.dropTest(ctx, only, &out))
	case resultReleased:
		return Attempt{}, errors.Join(ctx.Err(), d.dropTest(ctx, only, &out))
	}
	if err := d.recordTest(ctx, claim, out); err != nil {
		return *out.Attempt, errors.Join(err, d.dropTest(ctx, only, nil))
	}
	return *out.Attempt, nil
}

// storeTest stores a test event and returns the ID of its delivery. After an error there is none.
func (d *Dispatcher) storeTest(ctx context.Context, w *Webhook) (string, error) {
	e := Event{Project: w.Project, Type: TypeTest, Payload: []byte(testPayload)}
	var p problems
	d.complete(&p, &e, time.Now())
	e.check(&p, 0)
	p.prefix(0, "Event.")
	if err := p.err(); err != nil {
		return "", err
	}
	receipts, err := d.store.Enqueue(ctx, []Item{{Event: e, To: []string{w.ID}, Test: true}})
	if err != nil {
		// It may be stored all the same.
		q := DeliveryQuery{Project: e.Project, EventID: e.ID, WebhookID: w.ID, Test: ChoiceYes}
		return "", errors.Join(err, d.dropTest(ctx, q, nil))
	}
	if receipts[0].Duplicate {
		return "", fmt.Errorf("event %q, an ID that Config.NewEventID made: %w", e.ID, ErrExists)
	}
	d.notify(Notice{Kind: NoticeEmitted, Project: e.Project, EventID: e.ID, EventType: e.Type, Count: 1})
	return receipts[0].Deliveries[0], nil
}

// claimTest claims the delivery. Run may be faster: then it waits until Run has made the attempt, and returns that, or
// until Run has given the claim back.
func (d *Dispatcher) claimTest(ctx context.Context, w *Webhook, id string) (*Claim, Attempt, error) {
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		claims, _, err := d.store.Claim(ctx, ClaimRequest{Max: 1, Lease: d.cfg.MaxTimeout + leaseMargin, Only: id})
		if err != nil {
			return nil, Attempt{}, err
		}
		if len(claims) > 0 {
			return &claims[0], Attempt{}, nil
		}
		v, attempts, err := d.store.Delivery(ctx, id)
		switch {
		case err != nil:
			return nil, Attempt{}, err
		case v.Status.Final() && len(attempts) > 0:
			return nil, attempts[len(attempts)-1], nil
		case v.Status.Final():
			return nil, Attempt{}, fmt.Errorf("delivery %s: %w: %s", quote(id), ErrEnded, v.Status)
		case !v.InFlight: // given back just now, or never handed out, as its webhook was deleted
			if _, err := d.store.Webhook(ctx, w.ID); err != nil {
				return nil, Attempt{}, err
			}
		}
		if !pauseFor(ctx, pause) {
			return nil, Attempt{}, ctx.Err()
		}
	}
}

// recordTest records the attempt, whatever has become of ctx meanwhile, and tells of it.
func (d *Dispatcher) recordTest(ctx context.Context, claim *Claim, out Outcome) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), testTime)
	defer cancel()
	n, err := d.store.Complete(ctx, []Outcome{out})
	for pause := firstBackoff; err != nil; pause = min(2*pause, lastBackoff) {
		if errors.Is(err, ErrClosed) || errors.Is(err, ErrInvalid) || !pauseFor(ctx, pause) {
			return err
		}
		n, err = d.store.Complete(ctx, []Outcome{out})
	}
	// It may have been canceled meanwhile, or recorded by a call that returned an error.
	status := out.Status
	if v, _, err := d.store.Delivery(ctx, out.DeliveryID); err == nil {
		status = v.Status
	} else if n == 0 {
		return err
	}
	if !status.Final() {
		return errClaimLost
	}
	told := Notice{
		Kind: NoticeAttempted, Project: claim.Event.Project, EventID: claim.Event.ID, EventType: claim.Event.Type,
		DeliveryID: out.DeliveryID, WebhookID: claim.Webhook.ID, Attempt: out.Attempt,
	}
	d.notify(told)
	switch told.Attempt = nil; status {
	case StatusDelivered:
		told.Kind = NoticeDelivered
		d.notify(told)
	case StatusFailed:
		told.Kind = NoticeFailed
		d.notify(told)
	}
	d.ended(out.DeliveryID)
	return nil
}

// dropTest cancels what SendTest stored, whatever has become of ctx meanwhile, and then gives back its claim if it has
// one. The other way round Run could be first.
func (d *Dispatcher) dropTest(ctx context.Context, q DeliveryQuery, held *Outcome) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), testTime)
	defer cancel()
	for more := true; more; {
		var n int
		var err error
		n, more, err = d.store.Change(ctx, Change{Kind: ChangeCancel, Query: q, Max: 1})
		if err != nil {
			return fmt.Errorf("its delivery may be sent later: %w", err)
		}
		if n > 0 {
			d.notify(Notice{
				Kind: NoticeCanceled, Project: q.Project, EventID: q.EventID, DeliveryID: q.ID, WebhookID: q.WebhookID, Count: n,
			})
		}
	}
	if held == nil {
		return nil
	}
	if _, err := d.store.Complete(ctx, []Outcome{*held}); err != nil {
		return fmt.Errorf("its claim is held until its lease is over: %w", err)
	}
	return nil
}
