package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/postrider/postrider"
)

const (
	// statsSQL adds what was rolled up and what was not. What is claimed is counted from the leases, which are few; the
	// oldest that is due is the first in the index of each webhook, or among the leases. tally_first may name webhooks by
	// the ten thousand: for all of them it is not read what they are, no row of hook ever goes away.
	statsSQL = `
WITH h AS MATERIALIZED (` + statHooksSQL + `),
t AS MATERIALIZED (SELECT t.* FROM ~.tally t JOIN h ON h.no = t.hook),
f AS (
	SELECT coalesce(sum(cardinality(hooks)), 0) AS n FROM ~.tally_first WHERE $1 = '' AND $2 = '' AND $3 = ''
	UNION ALL SELECT count(*) FROM ~.tally_first f CROSS JOIN LATERAL unnest(f.hooks) x(hook) JOIN h ON h.no = x.hook
	WHERE $1 <> '' OR $2 <> '' OR $3 <> ''),
c AS (
	SELECT fresh, going, delivered, canceled, failed, parked, pruned, ok, bad FROM ~.stat s JOIN h ON h.no = s.hook
	UNION ALL SELECT fresh, going, delivered, canceled, failed, parked, pruned, ok, bad FROM t
	UNION ALL SELECT -n, 0, n, 0, 0, 0, 0, n, 0 FROM f),
r AS (
	SELECT due, n FROM ~.retry r JOIN h ON h.no = r.hook WHERE due <= statement_timestamp()
	UNION ALL SELECT due, retries FROM t WHERE due <= statement_timestamp())
SELECT coalesce(sum(fresh), 0)::bigint, coalesce(sum(going), 0)::bigint, coalesce(sum(delivered), 0)::bigint,
	coalesce(sum(canceled), 0)::bigint, coalesce(sum(failed), 0)::bigint, coalesce(sum(parked), 0)::bigint,
	coalesce(sum(pruned), 0)::bigint, coalesce(sum(ok), 0)::bigint, coalesce(sum(bad), 0)::bigint,
	(SELECT coalesce(sum(n), 0)::bigint FROM r),
	(SELECT count(*) FROM ~.lease l JOIN h ON h.no = l.hook WHERE l.until > statement_timestamp()),
	(SELECT min(f.due) FROM h CROSS JOIN LATERAL (
		SELECT o.due FROM ~.open o WHERE o.hook = h.no AND NOT o.parked AND o.due <= statement_timestamp() ORDER BY o.due LIMIT 1) f),
	$1 = '' OR EXISTS (SELECT FROM ~.hook WHERE id = $1), statement_timestamp()
FROM c`

	ratesSQL = `
WITH h AS MATERIALIZED (` + statHooksSQL + `),
r AS (
	SELECT at, hour, ok, bad FROM ~.rate r JOIN h ON h.no = r.hook WHERE at > statement_timestamp() - interval '745 hours'
	UNION ALL SELECT at, false, ok, bad FROM ~.tally t JOIN h ON h.no = t.hook WHERE ok + bad > 0
	UNION ALL SELECT at, false, cardinality(hooks), 0 FROM ~.tally_first WHERE $1 = '' AND $2 = '' AND $3 = ''
	UNION ALL SELECT at, false, 1, 0 FROM ~.tally_first f CROSS JOIN LATERAL unnest(f.hooks) x(hook) JOIN h ON h.no = x.hook
	WHERE $1 <> '' OR $2 <> '' OR $3 <> '')
SELECT date_trunc('minute', at), hour, sum(ok)::bigint, sum(bad)::bigint FROM r GROUP BY 1, 2`

	statHooksSQL = `SELECT no FROM ~.hook WHERE ($1 = '' OR id = $1) AND ($2 = '' OR project = $2) AND ($3 = '' OR owner = $3)`
)

// Stats returns counts.
func (s *Store) Stats(ctx context.Context, q postrider.StatsQuery) (st postrider.Stats, err error) {
	if err := s.enter(ctx); err != nil {
		return st, err
	}
	defer s.leave()
	if !storable(q.WebhookID) {
		return st, hookMissing(q.WebhookID)
	}
	if !storable(q.Project, q.Owner) {
		q.Project, q.Owner = " ", "" // of nobody
	}
	err = s.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		st = postrider.Stats{}
		var parked, retries int64
		var known bool
		var oldest pgtype.Timestamptz
		var now time.Time
		if err := tx.QueryRow(ctx, s.sql(statsSQL), q.WebhookID, q.Project, q.Owner).Scan(&st.New, &st.InProcess, &st.Delivered,
			&st.Canceled, &st.Failed, &parked, &st.Pruned, &st.AttemptsOK, &st.AttemptsFailed, &retries, &st.InFlight, &oldest,
			&known, &now); err != nil {
			return err
		}
		if !known {
			return fmt.Errorf("webhook %q: %w", q.WebhookID, postrider.ErrNotFound)
		}
		st.Due, st.OldestDue = st.New-parked+retries, when(oldest)
		if !q.Rates {
			return nil
		}
		st.Rates = new(postrider.Rates)
		_, err := collect(ctx, tx, s.sql(ratesSQL), func(row pgx.CollectableRow) (none struct{}, err error) {
			var at time.Time
			var hour bool
			var r postrider.Rate
			if err := row.Scan(&at, &hour, &r.OK, &r.Failed); err != nil {
				return none, err
			}
			if !hour {
				addRate(st.Rates.Minutes[:], at, now, time.Minute, r)
			}
			addRate(st.Rates.Hours[:], at, now, time.Hour, r)
			return none, nil
		}, q.WebhookID, q.Project, q.Owner)
		return err
	})
	return st, err
}

// addRate adds a count to a list whose last is the unit that now is in.
func addRate(list []postrider.Rate, at, now time.Time, unit time.Duration, r postrider.Rate) {
	ago := int(now.UTC().Truncate(unit).Sub(at.UTC().Truncate(unit)) / unit)
	if ago >= 0 && ago < len(list) {
		list[len(list)-1-ago].OK += r.OK
		list[len(list)-1-ago].Failed += r.Failed
	}
}
