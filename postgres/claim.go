package postgres

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/postrider/postrider"
)

// A Claim counts what is held of a webhook, over all processes, and may then hold more up to the limit: so it locks the
// webhook's row of hold, in a statement of its own, that all claims before are in the snapshot of the next. Webhooks that
// another process is claiming for at this moment are passed over, for others further down the list. Both statements are sent
// together: a setting of the transaction tells the second which rows the first has locked.
//
// Rows of open are not locked. What may be claimed has no lease, not even one that is over, in a snapshot from after the
// lock; under the lock nobody makes one, and a Change that wants it to be so has the lock itself. Who records an outcome
// deletes the lease in the transaction that changes the row, and so does who lets go what was held for too long: a
// snapshot has both or neither.
const (
	// holdSQL locks the first $2 webhooks of $1 that are to be had, or all: LATERAL keeps the order, and LIMIT ends it.
	holdSQL = `
SELECT set_config('postrider.held', coalesce(string_agg(hook::text, ','), ''), true)
FROM (SELECT k.hook FROM unnest($1::bigint[]) x(no)
	CROSS JOIN LATERAL (SELECT hook FROM ~.hold WHERE hook = x.no FOR UPDATE SKIP LOCKED) k LIMIT $2::int) k`

	// claimSQL takes of each webhook in $1 at most as many as $2 says, what is due longest first, and $6 of all: what is cut is
	// the end of the list, which is the beginning of the next. Of the webhook itself the caller knows the revision in $3.
	claimSQL = `
WITH w AS MATERIALIZED (
	SELECT h.no, l.n AS held, l.ids, h.revision, CASE WHEN h.revision <> x.known THEN h.body END AS hook_body,
		greatest(0, least(x.n, -- no limit is NULL, which least passes over
			least(nullif(h.hold_window, 0), coalesce(nullif(h.max_in_flight, 0), nullif($5::int, 0))) - l.n)) AS n
	FROM unnest($1::bigint[], $2::int[], $3::bigint[]) WITH ORDINALITY x(no, n, known, place) JOIN ~.hook h ON h.no = x.no
	CROSS JOIN LATERAL (
		SELECT count(*) FILTER (WHERE until > statement_timestamp()) AS n, coalesce(array_agg(id), '{}') AS ids
		FROM ~.lease WHERE hook = x.no) l
	WHERE x.no = ANY ((SELECT string_to_array(current_setting('postrider.held'), ',')::bigint[])::bigint[])
		AND h.state = 0 AND NOT h.deleted AND h.not_before <= statement_timestamp()
	ORDER BY x.place),
c AS MATERIALIZED (
	SELECT w.held, w.revision, w.hook_body, gen_random_uuid() AS token, q.* FROM w CROSS JOIN LATERAL (
		SELECT ` + claimColumns + ` FROM ~.open o
		WHERE o.hook = w.no AND NOT o.parked AND o.due <= statement_timestamp() AND o.id <> ALL (w.ids) AND NOT o.canceled
		ORDER BY o.due, o.id LIMIT w.n) q
	WHERE w.n > 0 LIMIT $6),
` + leaseSQL

	// onlySQL takes one delivery, whatever the state of its webhook.
	onlySQL = `
WITH c AS MATERIALIZED (
	SELECT (SELECT count(*) FROM ~.lease l WHERE l.hook = o.hook AND l.until > statement_timestamp()) AS held,
		h.revision, h.body AS hook_body, gen_random_uuid() AS token, ` + claimColumns + `
	FROM ~.open o JOIN ~.hook h ON h.no = o.hook AND NOT h.deleted
	WHERE o.id = $1 AND NOT o.parked AND NOT o.canceled AND $2::int >= 0 AND $3::int >= 0
		AND o.hook = ANY (string_to_array(current_setting('postrider.held'), ',')::bigint[])
		AND NOT EXISTS (SELECT FROM ~.lease l WHERE l.hook = o.hook AND l.id = o.id)),
` + leaseSQL

	claimColumns = `o.id, o.event, o.hook, o.status, o.attempts, o.last_code, o.last_took, o.last_class, o.last_error,
		o.created, o.due, o.test, o.replay_of, o.lane`

	// leaseSQL returns the claims, and the body of an event with one that has it. The planner expects far more claims than a
	// LIMIT that it does not know allows: LATERAL with LIMIT 1 keeps it from reading all events for a hash table.
	leaseSQL = `
l AS (
	INSERT INTO ~.lease (hook, id, token, until)
	SELECT hook, id, token, statement_timestamp() + $4::bigint * interval '1 microsecond' FROM c),
n AS (SELECT c.*, row_number() OVER (PARTITION BY event) AS copy FROM c)
SELECT n.id, n.event, n.hook, n.status, n.attempts, n.last_code, n.last_took, n.last_class, n.last_error,
	n.created, n.due, n.test, n.replay_of, n.lane IS NOT NULL, n.token, n.held, n.revision, n.hook_body, e.body
FROM n LEFT JOIN LATERAL (SELECT body FROM ~.event WHERE uid = n.event AND n.copy = 1 LIMIT 1) e ON true
ORDER BY n.hook, n.due, n.id`

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
	passed map[int64]bool // webhooks that have no more, or that another process was claiming of
	late   []sight        // those of which one was, for the next Claim: once, lest no look ever comes
	each   int            // what a webhook gives at a time where there are many
	wait   time.Duration
}

// run takes from the webhooks in their turn: first from each its share, then from those that have more. It begins with
// those that the Claim before saw and had no room for; so that nobody waits for them longer than they take for one turn
// each, it then looks afresh.
func (c *claiming) run(ctx context.Context) error {
	list, each := c.s.takeSeen()
	list, c.each = slices.DeleteFunc(list, func(w sight) bool { return !c.takes(w) }), each
	var first []sight
	if !c.suffices(list) { // a look would follow: it comes at once, and all have one turn
		first, list = list, nil
	}
	for whole := false; ; {
		if len(list) == 0 {
			if whole {
				return nil
			}
			fresh, all, err := c.s.look(ctx, c)
			if err != nil {
				return err
			}
			if list, whole = following(first, c.usable(fresh)), all; len(list) == 0 {
				return nil
			}
			first = nil
			c.each = max(1, min(chunk, round/len(list)))
		}
		share, n := c.deal(list)
		turn, others := list[:len(share)], list[len(share):]
		// Else there is more anyway, and a look follows if that does not do. It is not expected of webhooks to give less
		// than one each.
		whole = whole && n == len(list) && n < c.r.Max-len(c.claims)
		unmet, more, err := c.turn(ctx, turn, share, n, whole)
		if err != nil {
			return err
		}
		list = slices.Concat(unmet, others)
		if len(c.claims) == c.r.Max {
			c.s.keepSeen(slices.Concat(list, c.late), c.each)
			return nil
		}
		list = append(list, c.usable(more)...)
	}
}

// following returns those in first and then the others of a list.
func following(first, list []sight) []sight {
	if len(first) == 0 {
		return list
	}
	in := make(map[int64]bool, len(first))
	for i := range first {
		in[first[i].no] = true
	}
	return append(first, slices.DeleteFunc(list, func(w sight) bool { return in[w.no] })...)
}

// turn claims of n webhooks, of each its share: of the first of a list that no other process is claiming of. It returns
// those that it did not come to, and what there is of the others after it, if that is asked for.
func (c *claiming) turn(ctx context.Context, list []sight, share []int32, n int, after bool) (unmet, more []sight, err error) {
	nos := make([]int64, len(list))
	for i := range list {
		nos[i] = list[i].no
	}
	known := c.s.known(nos)
	revisions := make([]int64, len(list))
	for i, no := range nos {
		revisions[i] = known[no].revision
	}
	var g gathering
	var held string
	room := c.r.Max - len(c.claims)
	start := time.Now()
	err = c.s.pipe(ctx, func(b *pgx.Batch) {
		g, more = gathering{known: known}, nil
		b.Queue(c.s.sql(holdSQL), nos, n).QueryRow(func(row pgx.Row) error { return row.Scan(&held) })
		b.Queue(c.s.sql(claimSQL), nos, share, revisions, c.r.Lease.Microseconds(), c.r.MaxInFlight, room).Query(g.collect)
		if after {
			b.Queue(c.s.sql(afterSQL), nos, c.r.MaxInFlight).Query(into(&more, scanSight))
		}
	})
	if err != nil {
		return nil, nil, err
	}
	c.s.learn(g.learned)
	locked, met := map[int64]bool{}, len(list) // met: webhooks that were come to, the first of the list
	for _, text := range strings.FieldsFunc(held, func(r rune) bool { return r == ',' }) {
		no, _ := strconv.ParseInt(text, 10, 64)
		locked[no] = true
	}
	if len(locked) == n {
		for met > 0 && !locked[nos[met-1]] {
			met--
		}
	}
	of := map[int64]int{}
	for _, no := range g.hooks {
		of[no]++
		c.got[no]++
	}
	full := len(g.claims) == room // then a webhook may have given less than its share, and have more
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for i, w := range list[:met] {
		asked := int(share[i])
		if full {
			asked = min(asked, of[w.no])
		}
		switch {
		case locked[w.no] && asked == 0:
			unmet = append(unmet, w)
		case locked[w.no]:
			c.s.fathom(w.no, of[w.no], asked, start)
			c.passed[w.no] = of[w.no] < asked // it has no more
		default:
			c.passed[w.no] = true
			c.wait = min(c.wait, contended)
			if !w.late {
				w.late = true
				c.late = append(c.late, w)
			}
		}
		c.s.last = w.no
	}
	c.claims = append(c.claims, g.claims...)
	return append(unmet, list[met:]...), more, nil
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
	c.s.deepen(seen)
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
		b.Queue(s.sql(onlySQL), id, 0, 0, r.Lease.Microseconds()).Query(g.collect)
	})
	if err == nil && len(g.claims) == r.Max {
		return g.claims, 0, nil
	}
	return g.claims, postrider.Forever, err
}
