package postgres

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/cursor"
)

const (
	// budget is how many deliveries a page examines at most.
	budget = 5000
	// skips is how many rows of an offset a page passes over at most.
	skips = 2000

	sharedColumns = `x.id, x.hook, x.event_id, x.project, x.type, x.status, x.attempts, x.last_code, x.last_took, x.last_class,
		x.last_error, x.created, x.test, x.replay_of`
	openColumns  = sharedColumns + `, x.due, NULL::timestamptz AS finished`
	endedColumns = sharedColumns + `, NULL::timestamptz AS due, x.finished`

	// viewColumns are of rows y of these columns, with the webhook h.
	viewColumns = `y.id, y.event_id, y.project, y.type, h.id AS hook_id, h.name, h.owner, y.status, y.attempts, y.last_code, y.last_took,
		y.last_class, y.last_error, y.created, y.due, y.finished, y.test, y.replay_of,
		EXISTS (SELECT FROM ~.lease l WHERE l.hook = y.hook AND l.id = y.id AND l.until > statement_timestamp())`

	deliverySQL = `
SELECT ` + viewColumns + `, ARRAY(SELECT body FROM ~.attempt WHERE delivery = $1 ORDER BY number), y.tried
FROM (SELECT ` + openColumns + `, NULL::bytea AS tried FROM ~.open x WHERE x.id = $1
	UNION ALL SELECT ` + endedColumns + `, x.tried FROM ~.delivery x WHERE x.id = $1) y
JOIN ~.hook h ON h.no = y.hook`

	eventSQL = `
SELECT e.body FROM ~.event_key k JOIN ~.event e ON e.uid = k.uid WHERE k.id = $1 AND k.project = $2`

	attemptsSQL = `
SELECT * FROM (
	SELECT delivery, number, body FROM ~.attempt WHERE delivery = ANY($1)
	UNION ALL SELECT id, 1, tried FROM ~.delivery WHERE id = ANY($1) AND tried IS NOT NULL) a
ORDER BY delivery DESC, number DESC`
)

// Event returns an event.
func (s *Store) Event(ctx context.Context, project, id string) (e postrider.Event, err error) {
	if err := s.enter(ctx); err != nil {
		return e, err
	}
	defer s.leave()
	missing := fmt.Errorf("event %q: %w", id, postrider.ErrNotFound)
	if !storable(project, id) {
		return e, missing
	}
	bodies, err := ask(ctx, s, eventSQL, pgx.RowTo[[]byte], id, project)
	if err != nil {
		return e, err
	}
	if len(bodies) == 0 {
		return e, missing
	}
	return e, failure(ctx, e.UnmarshalBinary(bodies[0]))
}

// Delivery returns a delivery and its attempts.
func (s *Store) Delivery(ctx context.Context, id string) (d postrider.Delivery, attempts []postrider.Attempt, err error) {
	if err := s.enter(ctx); err != nil {
		return d, nil, err
	}
	defer s.leave()
	missing := fmt.Errorf("delivery %q: %w", id, postrider.ErrNotFound)
	u, ok := parseUID(id)
	if !ok {
		return d, nil, missing
	}
	rows, err := ask(ctx, s, deliverySQL, func(row pgx.CollectableRow) (d postrider.Delivery, err error) {
		var bodies [][]byte
		var tried []byte
		if d, err = scanDelivery(row, &bodies, &tried); err != nil {
			return d, err
		}
		if tried != nil {
			bodies = append(bodies, tried)
		}
		attempts = make([]postrider.Attempt, len(bodies))
		for i := range bodies {
			attempts[i].DeliveryID, attempts[i].WebhookID = d.ID, d.WebhookID
			if err := attempts[i].UnmarshalBinary(bodies[i]); err != nil {
				return d, err
			}
		}
		return d, nil
	}, u)
	if err != nil {
		return d, nil, err
	}
	if len(rows) == 0 {
		return d, nil, missing
	}
	return rows[0], attempts, nil
}

// scanDelivery reads viewColumns, and what comes after them into more.
func scanDelivery(row pgx.CollectableRow, more ...any) (d postrider.Delivery, err error) {
	var id, replayOf uid
	var took int64
	var status, code, class int16
	var text []byte
	var created, due, finished pgtype.Timestamptz
	err = row.Scan(append([]any{
		&id, &d.EventID, &d.Project, &d.EventType, &d.WebhookID, &d.WebhookName, &d.Owner, &status, &d.Attempts, &code, &took, &class,
		&text, &created, &due, &finished, &d.Test, &replayOf, &d.InFlight,
	}, more...)...)
	d.ID, d.ReplayOf, d.LastError = textOf(id), textOf(replayOf), string(text)
	d.Status, d.LastCode, d.LastClass = postrider.Status(status), int(code), postrider.Class(class)
	d.LastTook = time.Duration(took) * time.Microsecond
	d.CreatedAt, d.NextAt, d.FinishedAt = when(created), when(due), when(finished)
	return d, err
}

// Deliveries returns a page of deliveries.
func (s *Store) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (page postrider.Page[postrider.Delivery], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	// The position is the last delivery that was examined, and how much of the offset is left.
	var high, low, skip uint64
	set, err := cursor.Decode(q.Cursor, cursor.Deliveries(q), &high, &low, &skip)
	if err != nil {
		return page, err
	}
	if err := s.enter(ctx); err != nil {
		return page, err
	}
	defer s.leave()
	if !set {
		skip = uint64(q.Offset)
	}
	limit := cmp.Or(q.Limit, postrider.DefaultLimit)
	now := min(int(skip), skips) // of the offset, in this page
	w := walk{filter: newFilter(&q), ascending: q.Ascending}
	if set {
		at := position(high, low)
		w.after = &at
	}
	rows, edge, err := s.walk(ctx, &w, now+limit+1)
	if err != nil {
		return page, err
	}
	next := func(id uid, left uint64) string {
		high, low := halves(id)
		return cursor.Encode(cursor.Deliveries(q), high, low, left)
	}
	last := func(n int) uid { u, _ := parseUID(rows[n-1].ID); return u }
	left := skip - uint64(min(now, len(rows)))
	switch {
	case now < int(skip) && len(rows) >= now: // all of it is still the offset
		if len(rows) > now {
			page.Next = next(last(now), left)
		} else if edge.Valid {
			page.Next = next(edge, left)
		}
		return page, nil
	case len(rows) > now+limit:
		page.Next = next(last(now+limit), 0)
		rows = rows[:now+limit]
	case edge.Valid:
		page.Next = next(edge, left)
	}
	page.Items = rows[min(now, len(rows)):]
	return page, nil
}

func position(high, low uint64) (u uid) {
	binary.BigEndian.PutUint64(u.Bytes[:8], high)
	binary.BigEndian.PutUint64(u.Bytes[8:], low)
	u.Valid = true
	return u
}

func halves(u uid) (high, low uint64) {
	return binary.BigEndian.Uint64(u.Bytes[:8]), binary.BigEndian.Uint64(u.Bytes[8:])
}

// walk is a walk through deliveries in the order of their IDs.
type walk struct {
	filter    *filter
	ascending bool
	after     *uid // not set: from the start
	including bool // after itself too
}

// walk returns at most n deliveries. If it examined as many as it may before it had them, edge is the last it examined:
// there may be more behind. Otherwise there are no more than were returned.
func (s *Store) walk(ctx context.Context, w *walk, n int) (list []postrider.Delivery, edge uid, err error) {
	f := w.filter
	if f.nothing || !f.open && !f.ended {
		return nil, edge, nil
	}
	text, args := w.statement(n)
	type found struct {
		postrider.Delivery
		edge bool
	}
	rows, err := ask(ctx, s, text, func(row pgx.CollectableRow) (r found, err error) {
		r.Delivery, err = scanDelivery(row, &r.edge)
		return r, err
	}, args...)
	for _, r := range rows {
		if r.edge {
			edge, _ = parseUID(r.ID)
		} else {
			list = append(list, r.Delivery)
		}
	}
	return list, edge, err
}

// statement returns the query of a walk.
//
// The scan goes through one index in its order, over what is open and what has ended at once, in one snapshot. Each of
// the two has an order and a limit of its own: without, the server sorts all of them, as one of the two is partitioned.
func (w *walk) statement(n int) (text string, args []any) {
	f := w.filter
	order, beyond := "DESC", "<"
	if w.ascending {
		order, beyond = "ASC", ">"
	}
	if w.including {
		beyond += "="
	}
	way := f.way
	if w.after != nil {
		way = append(way[:len(way):len(way)], "x.id "+beyond+" "+f.arg(*w.after))
	}
	most := f.arg(n)
	bound := most
	if len(f.rest) > 0 {
		bound = f.arg(budget)
	}
	arm := func(columns, table string) string {
		return "SELECT " + columns + " FROM ~." + table + " x WHERE true" + where(way) + " ORDER BY x.id " + order + " LIMIT " + bound
	}
	scan := func(open, ended string) string {
		switch {
		case !f.ended:
			return arm(open, "open")
		case !f.open:
			return arm(ended, "delivery")
		}
		return "(" + arm(open, "open") + ") UNION ALL (" + arm(ended, "delivery") + ") ORDER BY id " + order + " LIMIT " + bound
	}
	text = "WITH page AS MATERIALIZED (SELECT * FROM (" + scan(openColumns, endedColumns) + ") x WHERE true" + where(f.rest) +
		" ORDER BY x.id " + order + " LIMIT " + most + ")\n" +
		"SELECT " + viewColumns + ", false AS edge FROM page y JOIN ~.hook h ON h.no = y.hook"
	if len(f.rest) > 0 {
		text += "\nUNION ALL SELECT b.id, '', '', '', '', '', '', 0, 0, 0, 0, 0, '', now(), NULL, NULL, false, NULL, false, true" +
			" FROM (SELECT e.id FROM (" + scan("x.id", "x.id") + ") e OFFSET " + bound + "::bigint - 1 LIMIT 1) b" +
			" WHERE (SELECT count(*) FROM page) < " + most + "::bigint"
	}
	return text + "\nORDER BY edge, id " + order, f.args
}
