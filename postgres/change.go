package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/postrider/postrider"
)

// A Change locks what it is for, in statements of their own: the deliveries, of which nothing can be recorded after, and
// then, as a Claim does, their webhooks' rows of hold, so that none can be claimed. The next statement sees what was
// recorded and claimed before.
const (
	leasedSQL = `EXISTS (SELECT FROM ~.lease l WHERE l.hook = x.hook AND l.id = x.id AND l.until > statement_timestamp())`

	lockHoldsSQL = `
SELECT FROM ~.hold WHERE hook IN (SELECT hook FROM ~.open WHERE id = ANY($1)) ORDER BY hook FOR UPDATE`

	makeDueSQL = `
WITH o AS MATERIALIZED (
	SELECT x.id, x.hook, x.due, x.status FROM ~.open x
	WHERE x.id = ANY($1) AND NOT x.parked AND x.due > statement_timestamp() AND NOT ` + leasedSQL + `),
u AS (UPDATE ~.open x SET due = statement_timestamp() FROM o WHERE x.id = o.id),
retried AS (
	INSERT INTO ~.tally (hook, at, due, retries)
	SELECT hook, statement_timestamp(), date_trunc('minute', due), sum(n)
	FROM (SELECT hook, due, -1 AS n FROM o WHERE status = 1
		UNION ALL SELECT hook, statement_timestamp(), 1 FROM o WHERE status = 1) m
	GROUP BY 1, 3 HAVING sum(n) <> 0)
SELECT count(*), 0 FROM o`

	cancelSQL = `
WITH all_of AS MATERIALIZED (
	SELECT x.*, ` + leasedSQL + ` AS leased, h.deleted FROM ~.open x JOIN ~.hook h ON h.no = x.hook WHERE x.id = ANY($1)),
later AS (
	UPDATE ~.open x SET canceled = true FROM all_of a WHERE x.id = a.id AND a.leased AND NOT a.deleted AND NOT a.canceled
	RETURNING x.id),
o AS MATERIALIZED (
	SELECT a.*, 3 AS next, NULL::timestamptz AS due2, a.attempts AS attempts2, a.last_code AS code2, a.last_class AS class2,
		a.last_error AS error2, a.last_took AS took2, false AS ok, false AS bad
	FROM all_of a WHERE NOT a.leased),
` + endsSQL + `
SELECT (SELECT count(*) FROM later) + (SELECT count(*) FROM o), (SELECT count(*) FROM look)`
)

// Change makes open deliveries due now, or cancels them.
func (s *Store) Change(ctx context.Context, c postrider.Change) (n int, more bool, err error) {
	if err := c.Validate(); err != nil {
		return 0, false, err
	}
	if err := s.enter(ctx); err != nil {
		return 0, false, err
	}
	defer s.leave()
	lock, args, none := s.lockChange(&c)
	if none {
		return 0, false, nil
	}
	var looks int
	err = s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		ids, err := collect(ctx, tx, s.sql(lock), pgx.RowTo[uid], args...)
		if n, looks = 0, 0; err != nil || len(ids) == 0 {
			return err
		}
		if more = len(ids) > c.Max; more {
			ids = ids[:c.Max]
		}
		if _, err := tx.Exec(ctx, s.sql(lockHoldsSQL), ids); err != nil {
			return err
		}
		text := makeDueSQL
		if c.Kind == postrider.ChangeCancel {
			text = cancelSQL
		}
		return tx.QueryRow(ctx, s.sql(text), ids).Scan(&n, &looks)
	})
	if err != nil {
		return 0, false, err
	}
	if looks > 0 {
		s.lookAtLanes(ctx)
	}
	if n > 0 {
		s.wake(ctx)
	}
	return n, more, nil
}

// lockChange returns the statement that locks what a change is for, in the order of IDs and one more than it may do.
func (s *Store) lockChange(c *postrider.Change) (text string, args []any, none bool) {
	f := &filter{open: true}
	if !c.Deleted {
		f = newFilter(&c.Query)
	}
	if f.nothing || !f.open {
		return "", nil, true
	}
	conds := []string{"NOT x.parked", "x.due > statement_timestamp()", "NOT " + leasedSQL}
	if c.Kind == postrider.ChangeCancel {
		conds = []string{"NOT x.canceled", "NOT (h.deleted AND " + leasedSQL + ")"}
	}
	if c.Deleted {
		conds = append(conds, "h.deleted")
	}
	if c.Age > 0 {
		conds = append(conds, "x.created <= statement_timestamp() - "+f.arg(c.Age.Microseconds())+"::bigint * interval '1 microsecond'")
	}
	text = "SELECT x.id FROM ~.open x JOIN ~.hook h ON h.no = x.hook WHERE true" + where(f.way, f.rest, conds) +
		" ORDER BY x.id LIMIT " + f.arg(c.Max+1) + " FOR UPDATE OF x"
	return text, f.args, false
}
