package postrider

import (
	"context"
	"fmt"
	"iter"
)

// Event returns the stored event with this ID in the project, or ErrNotFound.
func (d *Dispatcher) Event(ctx context.Context, project, id string) (Event, error) {
	e, err := d.store.Event(ctx, project, id)
	if err != nil {
		return Event{}, fmt.Errorf("event %s: %w", quote(id), err)
	}
	return e, nil
}

// Delivery returns the delivery with this ID, or ErrNotFound. Attempts has what was tried.
func (d *Dispatcher) Delivery(ctx context.Context, id string) (Delivery, error) {
	v, _, err := d.store.Delivery(ctx, id)
	if err != nil {
		return Delivery{}, fmt.Errorf("delivery %s: %w", quote(id), err)
	}
	return v, nil
}

// Deliveries returns a page of the deliveries that the query selects, newest first unless it says otherwise. A page
// may be short, even empty, and still have a Next. ErrNotFound: no webhook has the query's WebhookName.
func (d *Dispatcher) Deliveries(ctx context.Context, q DeliveryQuery) (Page[Delivery], error) {
	if err := q.Validate(); err != nil {
		return Page[Delivery]{}, err
	}
	q, none, err := d.resolve(ctx, q)
	if err != nil || none {
		return Page[Delivery]{}, err
	}
	page, err := d.store.Deliveries(ctx, q)
	if err != nil {
		return Page[Delivery]{}, fmt.Errorf("deliveries: %w", err)
	}
	return page, nil
}

// resolve makes a query's WebhookName the ID of the webhook that has it now, else ErrNotFound. It reports none if the
// query asks for another ID as well, so that it selects nothing.
func (d *Dispatcher) resolve(ctx context.Context, q DeliveryQuery) (_ DeliveryQuery, none bool, err error) {
	if q.WebhookName == "" {
		return q, false, nil
	}
	w, err := d.WebhookNamed(ctx, q.Project, q.WebhookName)
	if err != nil {
		return q, false, err
	}
	none = q.WebhookID != "" && q.WebhookID != w.ID
	q.WebhookID, q.WebhookName = w.ID, ""
	return q, none, nil
}

// Attempts returns a page of finished attempts: the newest delivery first, and of each the newest attempt first.
func (d *Dispatcher) Attempts(ctx context.Context, q AttemptQuery) (Page[Attempt], error) {
	if err := q.Validate(); err != nil {
		return Page[Attempt]{}, err
	}
	page, err := d.store.Attempts(ctx, q)
	if err != nil {
		return Page[Attempt]{}, fmt.Errorf("attempts: %w", err)
	}
	return page, nil
}

// Stats returns counts, of a webhook, a project, an owner or the whole store. It is cheap: nothing is scanned.
func (d *Dispatcher) Stats(ctx context.Context, q StatsQuery) (Stats, error) {
	s, err := d.store.Stats(ctx, q)
	if err != nil {
		return Stats{}, fmt.Errorf("stats: %w", err)
	}
	return s, nil
}

// All returns every delivery that the query selects, page by page, and the first error instead of a delivery. While the
// caller's code runs nothing is held open, so that it may take its time; what is added or ends meanwhile does not make
// a delivery come twice.
func (d *Dispatcher) All(ctx context.Context, q DeliveryQuery) iter.Seq2[Delivery, error] {
	return func(yield func(Delivery, error) bool) {
		for {
			page, err := d.Deliveries(ctx, q)
			if err != nil {
				yield(Delivery{}, err)
				return
			}
			for i := range page.Items {
				if !yield(page.Items[i], nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			q.Offset, q.Cursor = 0, page.Next
		}
	}
}

// Prune deletes now what Run would delete next for Config.Retention, in batches, and returns how many deliveries it
// deleted, also with an error. Run does so by itself.
func (d *Dispatcher) Prune(ctx context.Context) (n int, err error) {
	if d.cfg.Retention == Forever {
		return 0, nil
	}
	defer func() {
		if n > 0 {
			d.notify(Notice{Kind: NoticePruned, Count: n})
		}
	}()
	for {
		part, more, err := d.pruneBatch(ctx)
		n += part
		if err != nil {
			return n, fmt.Errorf("prune: %w", err)
		}
		if !more {
			return n, nil
		}
		if !pauseFor(ctx, prunePause) {
			return n, ctx.Err()
		}
	}
}

func (d *Dispatcher) pruneBatch(ctx context.Context) (n int, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return d.store.Prune(ctx, d.cfg.Retention, pruneBatch)
}
