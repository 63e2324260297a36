package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Counts are appended and rolled up later, by one process at a time: who gets the lock of the chore's row.
const (
	// tallyFirstSQL is what rows f of tally_first say, as rows of tally would.
	tallyFirstSQL = `
SELECT h.hook, f.at, NULL::timestamptz AS due, 0 AS retries, -1 AS fresh, 0 AS going, 1 AS delivered, 0 AS canceled,
	0 AS failed, 0 AS parked, 0 AS pruned, 1 AS ok, 0 AS bad
FROM f CROSS JOIN LATERAL unnest(f.hooks) h(hook)`

	rollUpSQL = `
WITH f AS MATERIALIZED (
	DELETE FROM ~.tally_first WHERE ctid = ANY (ARRAY(SELECT ctid FROM ~.tally_first LIMIT $1 / 20)) RETURNING *),
e AS MATERIALIZED (
	DELETE FROM ~.tally WHERE ctid = ANY (ARRAY(SELECT ctid FROM ~.tally LIMIT $1)) RETURNING *),
t AS MATERIALIZED (SELECT * FROM e UNION ALL` + tallyFirstSQL + `),
s AS (
	INSERT INTO ~.stat AS s (hook, fresh, going, delivered, canceled, failed, parked, pruned, ok, bad)
	SELECT hook, sum(fresh), sum(going), sum(delivered), sum(canceled), sum(failed), sum(parked), sum(pruned), sum(ok), sum(bad)
	FROM t WHERE due IS NULL GROUP BY hook
	ON CONFLICT (hook) DO UPDATE SET fresh = s.fresh + EXCLUDED.fresh, going = s.going + EXCLUDED.going,
		delivered = s.delivered + EXCLUDED.delivered, canceled = s.canceled + EXCLUDED.canceled, failed = s.failed + EXCLUDED.failed,
		parked = s.parked + EXCLUDED.parked, pruned = s.pruned + EXCLUDED.pruned, ok = s.ok + EXCLUDED.ok, bad = s.bad + EXCLUDED.bad),
r AS (
	INSERT INTO ~.retry AS r (hook, due, n) SELECT hook, due, sum(retries) FROM t WHERE due IS NOT NULL GROUP BY hook, due
	ON CONFLICT (hook, due) DO UPDATE SET n = r.n + EXCLUDED.n),
m AS (
	INSERT INTO ~.rate AS r (hook, hour, at, ok, bad)
	SELECT hook, false, date_trunc('minute', at), sum(ok), sum(bad) FROM t WHERE ok + bad > 0 GROUP BY 1, 3
	ON CONFLICT (hook, hour, at) DO UPDATE SET ok = r.ok + EXCLUDED.ok, bad = r.bad + EXCLUDED.bad)
SELECT greatest((SELECT count(*) FROM e), (SELECT count(*) * 20 FROM f))`

	forgetRetriesSQL = `DELETE FROM ~.retry WHERE n = 0`

	// Minutes that are no longer asked for become hours.
	hoursSQL = `
WITH m AS MATERIALIZED (
	DELETE FROM ~.rate WHERE NOT hour AND at < date_trunc('hour', statement_timestamp(), 'UTC') - interval '3 hours' RETURNING *)
INSERT INTO ~.rate AS r (hook, hour, at, ok, bad)
SELECT hook, true, date_trunc('hour', at, 'UTC'), sum(ok), sum(bad) FROM m GROUP BY 1, 3
ON CONFLICT (hook, hour, at) DO UPDATE SET ok = r.ok + EXCLUDED.ok, bad = r.bad + EXCLUDED.bad`

	forgetHoursSQL = `DELETE FROM ~.rate WHERE at < statement_timestamp() - interval '32 days'`
)

// rollUpMost is how many rows are rolled up in one transaction; of tally_first, where a row holds many, a twentieth.
const rollUpMost = 20_000

// rollUp carries counts to where they are summed up, and returns rollUpMost if there may be more.
func (s *Store) rollUp(ctx context.Context) (n int, err error) {
	err = s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		mine, err := collect(ctx, tx, s.sql(lockChoreSQL), pgx.RowTo[string], "rollup")
		if n = 0; err != nil || len(mine) == 0 {
			return err
		}
		if err := tx.QueryRow(ctx, s.sql(rollUpSQL), rollUpMost).Scan(&n); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.sql(forgetRetriesSQL))
		return err
	})
	return n, err
}

// coarsen turns minutes that are over for hours into hours, and forgets what is over for a month.
func (s *Store) coarsen(ctx context.Context) error {
	return s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		mine, err := collect(ctx, tx, s.sql(lockChoreSQL), pgx.RowTo[string], "rollup")
		if err != nil || len(mine) == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, s.sql(hoursSQL)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.sql(forgetHoursSQL))
		return err
	})
}
