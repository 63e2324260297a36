package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/postrider/postrider"
)

const (
	// What is to be done before a Claim: leases that are over, lanes to look at.
	choresSQL = `
SELECT EXISTS (SELECT FROM ~.lease WHERE until <= statement_timestamp()), EXISTS (SELECT FROM ~.lane_look)`

	// workSQL finds the webhooks that have something, by hopping from one to the next in the index, and of each when
	// what is not claimed is due next: negative if it is. How many are waiting plays no part. The row of webhook 0 is
	// when the first lease is over.
	workSQL = `
WITH RECURSIVE w(hook) AS (
	(SELECT hook FROM ~.open WHERE NOT parked ORDER BY hook LIMIT 1)
	UNION ALL
	SELECT (SELECT o.hook FROM ~.open o WHERE NOT o.parked AND o.hook > w.hook ORDER BY o.hook LIMIT 1) FROM w WHERE w.hook IS NOT NULL),
l AS MATERIALIZED (
	SELECT hook, count(*) AS n, array_agg(id) AS ids FROM ~.lease WHERE until > statement_timestamp() GROUP BY hook)
SELECT 0::bigint, '', NULL::bigint, (SELECT (extract(epoch FROM min(until) - statement_timestamp()) * 1000000)::bigint FROM ~.lease)
UNION ALL
SELECT h.no, h.id,
	least(nullif(h.hold_window, 0), coalesce(nullif(h.max_in_flight, 0), nullif($1::int, 0))) - coalesce(l.n, 0),
	(extract(epoch FROM greatest(f.due, h.not_before) - statement_timestamp()) * 1000000)::bigint
FROM w JOIN ~.hook h ON h.no = w.hook AND h.state = 0 AND NOT h.deleted LEFT JOIN l ON l.hook = h.no
CROSS JOIN LATERAL (
	SELECT o.due FROM ~.open o WHERE o.hook = h.no AND NOT o.parked AND o.id <> ALL (coalesce(l.ids, '{}'))
	ORDER BY o.due, o.id LIMIT 1) f`

	// overSQL forgets claims whose lease is over, and ends what was canceled while they lasted.
	overSQL = `
WITH l AS (
	DELETE FROM ~.lease WHERE id IN (
		SELECT id FROM ~.lease WHERE until <= statement_timestamp() ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)
	RETURNING id),
o AS MATERIALIZED (
	SELECT o.*, 3 AS next, NULL::timestamptz AS due2, o.attempts AS attempts2, o.last_code AS code2, o.last_class AS class2,
		o.last_error AS error2, o.last_took AS took2, false AS ok, false AS bad
	FROM l JOIN ~.open o USING (id) JOIN ~.hook h ON h.no = o.hook AND (o.canceled OR h.deleted)
	ORDER BY o.id FOR UPDATE OF o),
` + endsSQL + `
SELECT (SELECT count(*) FROM l), (SELECT count(*) FROM look)`
)

// tidy does what has to be done before a Claim.
func (s *Store) tidy(ctx context.Context) error {
	type chores struct{ Leases, Lanes bool }
	for {
		todo, err := ask(ctx, s, choresSQL, pgx.RowToStructByPos[chores])
		if err != nil {
			return err
		}
		if !todo[0].Leases {
			if todo[0].Lanes {
				s.lookAtLanes(ctx)
			}
			return nil
		}
		var over, looks int64
		if err := s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, s.sql(overSQL)).Scan(&over, &looks)
		}); err != nil {
			return err
		}
		if over == 0 { // somebody else is at it
			return nil
		}
	}
}

// candidate is a webhook that has something due.
type candidate struct {
	no    int64
	limit int // claims it can give at most
}

// due returns the webhooks that have something due, in their turn, and the time until there is more; it looks afresh.
func (s *Store) due(ctx context.Context, r *postrider.ClaimRequest) (list []candidate, wait time.Duration, err error) {
	type row struct {
		No       int64
		ID       string
		Room, In *int64
	}
	rows, err := ask(ctx, s, workSQL, pgx.RowToStructByPos[row], r.MaxInFlight)
	wait = postrider.Forever
	for _, w := range rows {
		limit, named := r.Limits[w.ID]
		if !named {
			limit = cmp.Or(r.Each, r.Max)
		}
		switch {
		case w.In == nil:
		case *w.In > 0:
			wait = min(wait, time.Duration(*w.In)*time.Microsecond)
		case w.No != 0 && limit > 0 && (w.Room == nil || *w.Room > 0):
			list = append(list, candidate{w.No, limit})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Compare(a.no, b.no) })
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	// Those behind the last one that had a turn go first.
	i, _ := slices.BinarySearchFunc(list, last+1, func(c candidate, no int64) int { return cmp.Compare(c.no, no) })
	return slices.Concat(list[i:], list[:i]), wait, err
}
