package postrider

import (
	"context"
	"fmt"
)

// changeBatch is how many deliveries one call of the store changes; between calls others get their turn.
const changeBatch = 1000

// Retry makes an open delivery due now instead of when its next attempt was planned. It takes its turn like others: a
// webhook that is paused, disabled or held back by its breaker gets it later. One that is in flight, due already, or
// waiting for others of its lane stays as it is, which is no error. ErrEnded: it is delivered, canceled or failed;
// Replay sends such ones again. ErrNotFound: there is none.
func (d *Dispatcher) Retry(ctx context.Context, deliveryID string) error {
	if deliveryID == "" { // in a query it would stand for every delivery
		return fmt.Errorf("retry a delivery without an ID: %w", ErrNotFound)
	}
	n, _, err := d.store.Change(ctx, Change{Kind: ChangeDue, Query: DeliveryQuery{ID: deliveryID}, Max: 1})
	if err != nil {
		return fmt.Errorf("retry delivery %s: %w", quote(deliveryID), err)
	}
	if n > 0 {
		return nil
	}
	v, err := d.Delivery(ctx, deliveryID)
	if err != nil {
		return err
	}
	if v.Status.Final() {
		return fmt.Errorf("retry delivery %s: %w: %s", quote(deliveryID), ErrEnded, v.Status)
	}
	return nil
}

// Cancel cancels every open delivery that the query selects, in batches, and returns how many, also with an error. The
// zero query selects all. A canceled delivery is never sent again. A request in flight goes on: if it succeeds, the
// delivery ends DELIVERED, otherwise CANCELED. What has ended stays as it is and is not counted.
//
// Offset, Limit and Cursor of the query must be zero: it stands for all that it selects. ErrNotFound: no webhook has its
// WebhookName. After an error, calling again goes on.
func (d *Dispatcher) Cancel(ctx context.Context, q DeliveryQuery) (n int, err error) {
	var p problems
	if checkWhole(&p, q); len(p) > 0 {
		return 0, p.err()
	}
	q, none, err := d.resolve(ctx, q)
	if err != nil || none {
		return 0, err
	}
	defer func() {
		if n > 0 {
			d.notify(Notice{Kind: NoticeCanceled, Project: q.Project, EventID: q.EventID, DeliveryID: q.ID, WebhookID: q.WebhookID, Count: n})
		}
	}()
	for {
		part, more, err := d.store.Change(ctx, Change{Kind: ChangeCancel, Query: q, Max: changeBatch})
		n += part
		if err != nil {
			return n, fmt.Errorf("cancel: %w", err)
		}
		if !more {
			return n, nil
		}
		if !pauseFor(ctx, prunePause) {
			return n, ctx.Err()
		}
	}
}

// checkWhole notes the problems of a query that stands for all that it selects, not for a page of it.
func checkWhole(p *problems, q DeliveryQuery) {
	const reason = "want none: all that the query selects is meant"
	if q.Offset != 0 {
		p.add("DeliveryQuery.Offset", CodeRange, "is %d, %s", q.Offset, reason)
	}
	if q.Limit != 0 {
		p.add("DeliveryQuery.Limit", CodeRange, "is %d, %s", q.Limit, reason)
	}
	if q.Cursor != "" {
		p.add("DeliveryQuery.Cursor", CodeRange, "is set, %s", reason)
	}
	q.Offset, q.Limit, q.Cursor = 0, 0, ""
	if err, ok := q.Validate().(*ValidationError); ok {
		*p = append(*p, err.Fields...)
	}
}
