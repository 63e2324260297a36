package postrider

import (
	"context"
	"fmt"
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
// may be short, even empty, and still have a Next.
func (d *Dispatcher) Deliveries(ctx context.Context, q DeliveryQuery) (Page[Delivery], error) {
	if err := q.Validate(); err != nil {
		return Page[Delivery]{}, err
	}
	page, err := d.store.Deliveries(ctx, q)
	if err != nil {
		return Page[Delivery]{}, fmt.Errorf("deliveries: %w", err)
	}
	return page, nil
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

// Stats returns counts, of one webhook or of the whole store. It is cheap: nothing is scanned.
func (d *Dispatcher) Stats(ctx context.Context, q StatsQuery) (Stats, error) {
	s, err := d.store.Stats(ctx, q)
	if err != nil {
		return Stats{}, fmt.Errorf("stats: %w", err)
	}
	return s, nil
}
