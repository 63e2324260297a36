package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/postrider/postrider"
)

// A Claim counts what is held of a webhook, over all processes, and may then hold more up to the limit: so it locks the
// webhook's row of hold, in a statement of its own, that all claims before are in the snapshot of the next. Webhooks that
// another process is claiming for at this moment are passed over.
const (
	holdSQL = `SELECT hook FROM ~.hold WHERE hook = ANY($1) ORDER BY hook FOR UPDATE SKIP LOCKED`

	// claimSQL takes of each webhook in $1 at most as many as $2 says, what is due longest first. Rows that a Change or
	// another statement holds are passed over.
	claimSQL = `
WITH w AS MATERIALIZED (
	SELECT h.no, coalesce(l.n, 0) AS held, coalesce(l.ids, '{}') AS ids,
		greatest(0, least(x.n, -- no limit is NULL, which least passes over
			least(nullif(h.hold_window, 0), coalesce(nullif(h.max_in_flight, 0), nullif($3::int, 0))) - coalesce(l.n, 0))) AS n
	FROM unnest($1::bigint[], $2::int[]) x(no, n) JOIN ~.hook h ON h.no = x.no
	LEFT JOIN (
		SELECT hook, count(*) AS n, array_agg(id) AS ids FROM ~.lease
		WHERE hook = ANY($1) AND until > statement_timestamp() GROUP BY hook) l ON l.hook = h.no
	WHERE h.state = 0 AND NOT h.deleted AND h.not_before <= statement_timestamp()),
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
		AND NOT EXISTS (SELECT FROM ~.lease l WHERE l.id = o.id AND l.until > statement_timestamp())
		AND $2::int > 0 AND $3::int >= 0
	FOR UPDATE OF o),
` + leaseSQL

	leaseSQL = `
l AS (
	INSERT INTO ~.lease (id, hook, token, until)
	SELECT id, hook, token, statement_timestamp() + $4::bigint * interval '1 microsecond' FROM c ORDER BY id
	ON CONFLICT (id) DO UPDATE SET token = EXCLUDED.token, until = EXCLUDED.until)
SELECT id, event, hook, event_id, project, type, status, attempts, last_code, last_took, last_class, last_error, created, due, test,
	replay_of, token, held + row_number() OVER (PARTITION BY hook ORDER BY due, id)
FROM c ORDER BY hook, due, id`

	onlyHoldSQL = `SELECT h.hook FROM ~.open o JOIN ~.hold h ON h.hook = o.hook WHERE o.id = $1 FOR UPDATE OF h`

	bodiesSQL = `
SELECT uid, NULL::bigint, body FROM ~.event WHERE uid = ANY($1)
UNION ALL SELECT NULL, no, body FROM ~.hook WHERE no = ANY($2)`
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
	if err := s.tidy(ctx); err != nil {
		return nil, 0, err
	}
	if r.Only != "" {
		if claims, err = s.claimOnly(ctx, &r); len(claims) == r.Max {
			return claims, 0, err
		}
		return claims, postrider.Forever, err
	}
	s.rollUpSometimes(ctx)
	list, wait, err := s.due(ctx, &r)
	if err != nil || len(list) == 0 {
		return nil, wait, err
	}
	skipped := false
	if err := s.write(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		claims, skipped, err = s.claim(ctx, tx, &r, list)
		return err
	}); err != nil {
		return nil, 0, err
	}
	if len(claims) == r.Max {
		return claims, 0, nil
	}
	if _, wait, err = s.due(ctx, &r); err != nil {
		return claims, contended, nil // they are claimed whatever the wait is
	}
	if skipped {
		wait = min(wait, contended)
	}
	return claims, wait, nil
}

// claim takes from the webhooks in their turn: first from each its share, then from those that have more.
func (s *Store) claim(
	ctx context.Context, tx pgx.Tx, r *postrider.ClaimRequest, list []candidate,
) (claims []postrider.Claim, skipped bool, err error) {
	var g gathering
	for len(list) > 0 && len(g.claims) < r.Max {
		room := r.Max - len(g.claims)
		n := min(len(list), room)
		turn, rest := list[:n], list[n:]
		nos := make([]int64, n)
		for i := range turn {
			nos[i] = turn[i].no
		}
		mine, err := collect(ctx, tx, s.sql(holdSQL), pgx.RowTo[int64], nos)
		if err != nil {
			return nil, false, err
		}
		skipped = skipped || len(mine) < n
		quota := map[int64]int32{}
		share := make([]int32, len(mine))
		limits := map[int64]int{}
		for _, c := range turn {
			limits[c.no] = c.limit
		}
		for i, no := range mine {
			share[i] = int32(min(limits[no], (room+len(mine)-1-i)/len(mine)))
			quota[no] = share[i]
		}
		got, err := s.take(ctx, tx, &g, s.sql(claimSQL), mine, share, r)
		if err != nil {
			return nil, false, err
		}
		s.mu.Lock()
		s.last = turn[n-1].no
		s.mu.Unlock()
		list = rest
		for _, c := range turn { // who gave all it was asked for may have more
			if k := got[c.no]; k > 0 && k == int(quota[c.no]) && c.limit > k {
				list = append(list[:len(list):len(list)], candidate{c.no, c.limit - k})
			}
		}
	}
	return g.claims, skipped, s.bodies(ctx, tx, &g)
}

func (s *Store) claimOnly(ctx context.Context, r *postrider.ClaimRequest) ([]postrider.Claim, error) {
	id, ok := parseUID(r.Only)
	if !ok {
		return nil, nil
	}
	var g gathering
	err := s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		g = gathering{}
		if hold, err := collect(ctx, tx, s.sql(onlyHoldSQL), pgx.RowTo[int64], id); err != nil || len(hold) == 0 {
			return err
		}
		if _, err := s.take(ctx, tx, &g, s.sql(onlySQL), id, int32(1), r); err != nil {
			return err
		}
		return s.bodies(ctx, tx, &g)
	})
	return g.claims, err
}

// gathering is claims before their events and webhooks are there.
type gathering struct {
	claims []postrider.Claim
	events []uid
	hooks  []int64
}

// take runs a statement that claims and returns how many it got of each webhook.
func (s *Store) take(
	ctx context.Context, tx pgx.Tx, g *gathering, text string, of, most any, r *postrider.ClaimRequest,
) (map[int64]int, error) {
	got := map[int64]int{}
	_, err := collect(ctx, tx, text, func(row pgx.CollectableRow) (none struct{}, err error) {
		var c postrider.Claim
		var id, event, replayOf, token uid
		var hook, took int64
		var status, code, class int16
		var text []byte
		var created, due pgtype.Timestamptz
		d := &c.Delivery
		err = row.Scan(&id, &event, &hook, &d.EventID, &d.Project, &d.EventType, &status, &d.Attempts, &code, &took, &class, &text,
			&created, &due, &d.Test, &replayOf, &token, &c.Held)
		d.ID, d.ReplayOf, c.Token = textOf(id), textOf(replayOf), textOf(token)
		d.Status, d.LastCode, d.LastClass, d.LastError = postrider.Status(status), int(code), postrider.Class(class), string(text)
		d.LastTook, d.CreatedAt, d.NextAt, d.InFlight = time.Duration(took)*time.Microsecond, when(created), when(due), true
		g.claims, g.events, g.hooks = append(g.claims, c), append(g.events, event), append(g.hooks, hook)
		got[hook]++
		return none, err
	}, of, most, r.MaxInFlight, r.Lease.Microseconds())
	return got, err
}

// bodies fills in the events and webhooks of claims.
func (s *Store) bodies(ctx context.Context, tx pgx.Tx, g *gathering) error {
	if len(g.claims) == 0 {
		return nil
	}
	events, hooks := map[uid]postrider.Event{}, map[int64]postrider.Webhook{}
	_, err := collect(ctx, tx, s.sql(bodiesSQL), func(row pgx.CollectableRow) (none struct{}, err error) {
		var u uid
		var no *int64
		var body []byte
		if err := row.Scan(&u, &no, &body); err != nil {
			return none, err
		}
		if no == nil {
			var e postrider.Event
			err = e.UnmarshalBinary(body)
			events[u] = e
			return none, err
		}
		var w postrider.Webhook
		err = w.UnmarshalBinary(body)
		hooks[*no] = w
		return none, err
	}, g.events, g.hooks)
	for i := range g.claims {
		c := &g.claims[i]
		c.Event, c.Webhook = events[g.events[i]], hooks[g.hooks[i]]
		d := &c.Delivery
		d.WebhookID, d.WebhookName, d.Owner = c.Webhook.ID, c.Webhook.Name, c.Webhook.Owner
	}
	return err
}
