package postgres

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/postrider/postrider"
)

// A Claim counts what is held of a webhook, over all processes, and may then hold more up to the limit: so it locks the
// webhook's row of hold, in a statement of its own, that all claims before are in the snapshot of the next. Webhooks that
// another process is claiming for at this moment are passed over. Both statements are sent together: a setting of the
// transaction tells the second which rows the first has locked.
const (
	holdSQL = `
SELECT set_config('postrider.held', coalesce(string_agg(hook::text, ','), ''), true)
FROM (SELECT hook FROM ~.hold WHERE hook = ANY($1) ORDER BY hook FOR UPDATE SKIP LOCKED) k`

	// claimSQL takes of each webhook in $1 at most as many as $2 says, what is due longest first. Rows that a Change or
	// another statement holds are passed over.
	claimSQL = `
WITH w AS MATERIALIZED (
	SELECT h.no, l.n AS held, l.ids,
		greatest(0, least(x.n, -- no limit is NULL, which least passes over
			least(nullif(h.hold_window, 0), coalesce(nullif(h.max_in_flight, 0), nullif($3::int, 0))) - l.n)) AS n
	FROM unnest($1::bigint[], $2::int[]) x(no, n) JOIN ~.hook h ON h.no = x.no
	CROSS JOIN LATERAL (
		SELECT count(*) AS n, coalesce(array_agg(id), '{}') AS ids FROM ~.lease
		WHERE hook = x.no AND until > statement_timestamp()) l
	WHERE x.no = ANY ((SELECT string_to_array(current_setting('postrider.held'), ',')::bigint[])::bigint[])
		AND h.state = 0 AND NOT h.deleted AND h.not_before <= statement_timestamp()),
c AS MATERIALIZED (
	SELECT w.held, gen_random_uuid() AS token, q.* FROM w CROSS JOIN LATERAL (
		SELECT o.* FROM ~.open o
		WHERE o.hook = w.no AND NOT o.parked AND o.due <= statement_timestamp() AND o.id <> ALL (w.ids) AND NOT o.canceled
		ORDER BY o.due, o.id LIMIT w.n FOR UPDATE OF o SKIP LOCKED) q
	WHERE w.n > 0),
` + leaseSQL

	// onlySQL takes one delivery, whatever the state of its webhook.
	onlySQL = `
WITH c AS MATERIALIZED (
	SELECT (SELECT count(*) FROM ~.lease l WHERE l.hook = o.hook AND l.until > statement_timestamp()) AS held,
		gen_random_uuid() AS token, o.*
	FROM ~.open o JOIN ~.hook h ON h.no = o.hook AND NOT h.deleted
	WHERE o.id = $1 AND NOT o.parked AND NOT o.canceled
		AND o.hook = ANY (string_to_array(current_setting('postrider.held'), ',')::bigint[])
		AND NOT EXISTS (SELECT FROM ~.lease l WHERE l.id = o.id AND l.until > statement_timestamp())
		AND $2::int > 0 AND $3::int >= 0
	FOR UPDATE OF o),
` + leaseSQL

	// leaseSQL returns the claims, and the bodies of an event and of a webhook with the first that has it. The planner
	// expects far more claims than a LIMIT that it does not know allows: LATERAL with LIMIT 1 keeps it from reading all
	// events for a hash table.
	leaseSQL = `
l AS (
	INSERT INTO ~.lease (id, hook, token, until)
	SELECT id, hook, token, statement_timestamp() + $4::bigint * interval '1 microsecond' FROM c ORDER BY id
	ON CONFLICT (id) DO UPDATE SET token = EXCLUDED.token, until = EXCLUDED.until),
n AS (
	SELECT c.*, row_number() OVER (PARTITION BY hook ORDER BY due, id) AS place, row_number() OVER (PARTITION BY event ORDER BY id) AS copy
	FROM c)
SELECT n.id, n.event, n.hook, n.event_id, n.project, n.type, n.status, n.attempts, n.last_code, n.last_took, n.last_class, n.last_error,
	n.created, n.due, n.test, n.replay_of, n.token, n.held + n.place,
	CASE WHEN n.copy = 1 THEN e.body END, CASE WHEN n.place = 1 THEN h.body END
FROM n CROSS JOIN LATERAL (SELECT body FROM ~.hook WHERE no = n.hook LIMIT 1) h
CROSS JOIN LATERAL (SELECT body FROM ~.event WHERE uid = n.event LIMIT 1) e ORDER BY n.hook, n.due, n.id`

	onlyHoldSQL = `
SELECT set_config('postrider.held', coalesce(string_agg(hook::text, ','), ''), true)
FROM (SELECT h.hook FROM ~.open o JOIN ~.hold h ON h.hook = o.hook WHERE o.id = $1 FOR UPDATE OF h) k`
)

// contended is how soon to look again when another process was claiming of the same webhooks.
const contended = 10 * time.Millisecond

// Claim hands out what is due.
func (s *Store) Claim(ctx context.Context, r postrider.ClaimRequest) (claims []postrider.Claim, wait time.Duration, err error) {
	if err := r.Validate(); err != nil {
		return nil, 0, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	if r.Only != "" {
		return s.claimOnly(ctx, &r)
	}
	s.rollUpSometimes(ctx)
	c := claiming{s: s, r: &r, got: map[int64]int{}, passed: map[int64]bool{}, wait: postrider.Forever}
	err = c.run(ctx)
	switch {
	case err == nil && len(c.claims) < r.Max:
		return c.claims, c.wait, nil
	case err != nil && len(c.claims) > 0:
		return c.claims, contended, nil // they are claimed whatever comes after
	case err != nil:
		return nil, 0, err
	}
	return c.claims, 0, nil
}

// claiming is one Claim.
type claiming struct {
	s      *Store
	r      *postrider.ClaimRequest
	claims []postrider.Claim
	got    map[int64]int  // of each webhook
	passed map[int64]bool // webhooks of which another has locked something
	wait   time.Duration
}

// run takes from the webhooks in their turn: first from each its share, then from those that have more. It begins with
// those that the Claim before saw and had no room for; so that nobody waits for them longer than they take for one turn
// each, it then looks afresh.
func (c *claiming) run(ctx context.Context) error {
	list := slices.DeleteFunc(c.s.takeSeen(), func(w sight) bool { return !c.takes(w) })
	for whole := false; ; {
		if len(list) == 0 {
			if whole {
				return nil
			}
			fresh, all, err := c.s.look(ctx, c)
			if err != nil {
				return err
			}
			if list, whole = c.usable(fresh), all; len(list) == 0 {
				return nil
			}
		}
		n := min(len(list), c.r.Max-len(c.claims))
		turn := list[:n]
		list = list[n:]
		after := len(list) == 0 // else there is more anyway, and a look follows if that does not do
		whole = whole && after
		more, err := c.turn(ctx, turn, after)
		if err != nil {
			return err
		}
		if len(c.claims) == c.r.Max {
			c.s.keepSeen(list)
			return nil
		}
		list = append(list[:len(list):len(list)], c.usable(more)...)
	}
}

// turn claims of some webhooks, each its share, and returns what there is of them after it, if that is asked for.
func (c *claiming) turn(ctx context.Context, turn []sight, after bool) (more []sight, err error) {
	n, room := len(turn), c.r.Max-len(c.claims)
	nos, share := make([]int64, n), make([]int32, n)
	for i := range turn {
		nos[i], share[i] = turn[i].no, int32(min(c.limit(&turn[i]), (room+n-1-i)/n))
	}
	var g gathering
	var held string
	err = c.s.pipe(ctx, func(b *pgx.Batch) {
		g, more = gathering{}, nil
		b.Queue(c.s.sql(holdSQL), nos).QueryRow(func(row pgx.Row) error { return row.Scan(&held) })
		b.Queue(c.s.sql(claimSQL), nos, share, c.r.MaxInFlight, c.r.Lease.Microseconds()).Query(g.collect)
		if after {
			b.Queue(c.s.sql(afterSQL), nos, c.r.MaxInFlight).Query(into(&more, scanSight))
		}
	})
	if err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	c.s.last = turn[n-1].no
	c.s.mu.Unlock()
	locked := map[int64]bool{}
	for text := range strings.SplitSeq(held, ",") {
		no, _ := strconv.ParseInt(text, 10, 64)
		locked[no] = true
	}
	of := map[int64]int{}
	for _, no := range g.hooks {
		of[no]++
		c.got[no]++
	}
	for i, no := range nos {
		// Who gives less than its share has no more, or something of it is locked.
		if !locked[no] || of[no] < int(share[i]) {
			c.passed[no] = true
		}
		if !locked[no] {
			c.wait = min(c.wait, contended)
		}
	}
	c.claims = append(c.claims, g.claims...)
	return more, nil
}

// limit returns how many claims a webhook may give to the caller.
func (c *claiming) limit(w *sight) int {
	limit, named := c.r.Limits[w.id]
	if !named {
		limit = cmp.Or(c.r.Each, c.r.Max)
	}
	return limit - c.got[w.no]
}

// offers reports whether a webhook has something due, and both it and the caller have room for it.
func (c *claiming) offers(w *sight) bool {
	return w.in != nil && *w.in <= 0 && (w.room == nil || *w.room > 0) && c.limit(w) > 0
}

// takes reports whether something of a webhook can be claimed now.
func (c *claiming) takes(w sight) bool { return c.offers(&w) && !c.passed[w.no] }

// usable returns the webhooks of which something can be claimed now, and notes when there is more.
func (c *claiming) usable(seen []sight) (list []sight) {
	for _, w := range seen {
		switch {
		case c.takes(w):
			list = append(list, w)
		case c.offers(&w): // another process has locked it
			c.wait = min(c.wait, contended)
		case w.in != nil && *w.in > 0:
			c.wait = min(c.wait, time.Duration(*w.in)*time.Microsecond)
		}
		switch {
		case w.end == nil:
		case *w.end > 0:
			c.wait = min(c.wait, time.Duration(*w.end)*time.Microsecond)
		default: // it could not be let go
			c.wait = min(c.wait, contended)
		}
	}
	return list
}

func (s *Store) claimOnly(ctx context.Context, r *postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	id, ok := parseUID(r.Only)
	if !ok {
		return nil, postrider.Forever, nil
	}
	type chores struct {
		Hook        int64
		Over, Lanes bool
	}
	todo, err := ask(ctx, s, onlyChoresSQL, pgx.RowToStructByPos[chores], id)
	if err != nil || len(todo) == 0 {
		return nil, postrider.Forever, err
	}
	var over []int64
	if todo[0].Over {
		over = []int64{todo[0].Hook}
	}
	if err := s.tidy(ctx, over, todo[0].Lanes); err != nil {
		return nil, 0, err
	}
	var g gathering
	err = s.pipe(ctx, func(b *pgx.Batch) {
		g = gathering{}
		b.Queue(s.sql(onlyHoldSQL), id)
		b.Queue(s.sql(onlySQL), id, 1, r.MaxInFlight, r.Lease.Microseconds()).Query(g.collect)
	})
	if err == nil && len(g.claims) == r.Max {
		return g.claims, 0, nil
	}
	return g.claims, postrider.Forever, err
}

// gathering is claims of one statement.
type gathering struct {
	claims []postrider.Claim
	hooks  []int64 // of each claim
}

// collect reads what leaseSQL returns.
func (g *gathering) collect(rows pgx.Rows) error {
	defer rows.Close()
	events, hooks := map[uid]*postrider.Event{}, map[int64]*postrider.Webhook{}
	var of []uid
	for rows.Next() {
		var c postrider.Claim
		var id, event, replayOf, token uid
		var hook, took int64
		var status, code, class int16
		var text, eventBody, hookBody []byte
		var created, due pgtype.Timestamptz
		d := &c.Delivery
		if err := rows.Scan(&id, &event, &hook, &d.EventID, &d.Project, &d.EventType, &status, &d.Attempts, &code, &took, &class, &text,
			&created, &due, &d.Test, &replayOf, &token, &c.Held, &eventBody, &hookBody); err != nil {
			return err
		}
		d.ID, d.ReplayOf, c.Token = textOf(id), textOf(replayOf), textOf(token)
		d.Status, d.LastCode, d.LastClass, d.LastError = postrider.Status(status), int(code), postrider.Class(class), string(text)
		d.LastTook, d.CreatedAt, d.NextAt, d.InFlight = time.Duration(took)*time.Microsecond, when(created), when(due), true
		g.claims, g.hooks, of = append(g.claims, c), append(g.hooks, hook), append(of, event)
		if eventBody != nil {
			events[event] = &postrider.Event{}
			if err := events[event].UnmarshalBinary(eventBody); err != nil {
				return err
			}
		}
		if hookBody != nil {
			hooks[hook] = &postrider.Webhook{}
			if err := hooks[hook].UnmarshalBinary(hookBody); err != nil {
				return err
			}
		}
	}
	for i := range g.claims {
		c := &g.claims[i]
		c.Event, c.Webhook = *events[of[i]], *hooks[g.hooks[i]]
		d := &c.Delivery
		d.WebhookID, d.WebhookName, d.Owner = c.Webhook.ID, c.Webhook.Name, c.Webhook.Owner
	}
	return rows.Err()
}
