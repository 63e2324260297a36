package storetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/postrider/postrider"
)

// pages is a list: it returns the IDs of the page behind the cursor, and the cursor of the next one.
type pages func(cursor string) (ids []string, next string, err error)

// walk returns the IDs of all pages, and runs between after each but the last. It ends the case if an ID is met
// twice.
func walk(x *suite, list pages, between func()) []string {
	var all []string
	seen := map[string]bool{}
	for cursor, n := "", 0; ; n++ {
		if n > 100_000 {
			x.fail("a last page", "none after %d", n)
		}
		ids, next, err := list(cursor)
		x.ok("the page behind "+fmt.Sprintf("%q", cursor), err)
		for _, id := range ids {
			if seen[id] {
				x.fail("each row once", "%s twice", id)
			}
			seen[id] = true
		}
		all = append(all, ids...)
		if next == "" {
			return all
		}
		cursor = next
		if between != nil {
			between()
		}
	}
}

func idsOf[T any](rows []T, id func(T) string) []string {
	var ids []string
	for _, row := range rows {
		ids = append(ids, id(row))
	}
	return ids
}

// meets walks while between changes things, and ends the case unless it meets all of want.
func (x *suite) meets(list pages, want []string, between func()) {
	got := walk(x, list, between)
	for _, id := range want {
		if !slices.Contains(got, id) {
			x.fail("every row that was there at the start", "none of %s", id)
		}
	}
}

// refuses ends the case unless the list answers ErrInvalid to cursors that are not its own: ones that never were a
// cursor, parts of one, and those of other queries.
func (x *suite) refuses(what string, list pages, others ...string) {
	_, own, err := list("")
	x.ok(what, err)
	if own == "" {
		x.fail(what+" to have a second page", "no Next")
	}
	bad := append([]string{"x", "0", "-1", "\x00", "%%%", "AAAA", own + own, own + "A", own[:len(own)/2], own[:len(own)-1]}, others...)
	for _, cursor := range bad {
		if cursor == "" || cursor == own {
			continue
		}
		ids, next, err := list(cursor)
		x.invalid(fmt.Sprintf("%s with the cursor %q", what, cursor), err)
		if len(ids) > 0 || next != "" {
			x.fail("no rows with an error", "%d rows", len(ids))
		}
	}
	if _, _, err := list(own); errors.Is(err, postrider.ErrInvalid) {
		x.fail(what+" to take its own cursor", "%v", err)
	}
}

func deliveryPages(x *suite, q postrider.DeliveryQuery) pages {
	return func(cursor string) ([]string, string, error) {
		q.Cursor = cursor
		page, err := x.s.Deliveries(x.ctx, q)
		return idsOf(page.Items, func(d postrider.Delivery) string { return d.ID }), page.Next, err
	}
}

func attemptPages(x *suite, q postrider.AttemptQuery) pages {
	return func(cursor string) ([]string, string, error) {
		q.Cursor = cursor
		page, err := x.s.Attempts(x.ctx, q)
		return idsOf(page.Items, func(a postrider.Attempt) string { return a.ID() }), page.Next, err
	}
}

// deliveries returns all deliveries that the query selects.
func (x *suite) deliveries(q postrider.DeliveryQuery) []postrider.Delivery {
	var all []postrider.Delivery
	for {
		page, err := x.s.Deliveries(x.ctx, q)
		x.ok("Deliveries", err)
		all = append(all, page.Items...)
		if q.Cursor = page.Next; q.Cursor == "" {
			return all
		}
	}
}
