package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Rows are deleted one by one where no partition is to be dropped: see partition.go. That is up to the ID $3, and in the
// default partition.
//
// Prune takes the lock of the events' keys first, as a replay does: an event is deleted with its last delivery, and no
// other one is made of it meanwhile. Events that somebody sends again at this moment are left for the next time.
const (
	endedSQL = `
WITH d AS MATERIALIZED (
	SELECT id, event, event_id, project FROM (
		(SELECT * FROM ~.delivery
		WHERE finished <= statement_timestamp() - $1::bigint * interval '1 microsecond' AND id < $3 ORDER BY finished LIMIT $2)
		UNION ALL
		(SELECT * FROM ~.delivery_default
		WHERE finished <= statement_timestamp() - $1::bigint * interval '1 microsecond' AND id >= $3 ORDER BY finished LIMIT $2)) d
	ORDER BY finished LIMIT $2),
k AS MATERIALIZED (
	SELECT k.uid FROM ~.event_key k JOIN (SELECT DISTINCT event_id, project FROM d) e ON k.id = e.event_id AND k.project = e.project
	ORDER BY k.id, k.project FOR UPDATE OF k SKIP LOCKED)
SELECT d.id, d.event, d.event_id, d.project FROM d JOIN k ON k.uid = d.event`

	pruneSQL = `
WITH d AS (DELETE FROM ~.delivery WHERE id = ANY($1) RETURNING id, hook, status),
a AS (DELETE FROM ~.attempt WHERE delivery = ANY($1)),
t AS (
	INSERT INTO ~.tally (hook, at, delivered, canceled, failed, pruned)
	SELECT hook, statement_timestamp(), -sum((status = 2)::int), -sum((status = 3)::int), -sum((status = 4)::int), count(*)
	FROM d GROUP BY hook)
SELECT count(*) FROM d`

	// In a statement after pruneSQL, which sees what that one deleted.
	pruneEventsSQL = `
WITH e AS MATERIALIZED (
	SELECT DISTINCT n.uid, n.id, n.project FROM unnest($1::uuid[], $2::text[], $3::text[]) n(uid, id, project)
	WHERE NOT EXISTS (SELECT FROM ~.open o WHERE o.event = n.uid) AND NOT EXISTS (SELECT FROM ~.delivery d WHERE d.event = n.uid)),
k AS (DELETE FROM ~.event_key k USING e WHERE k.id = e.id AND k.project = e.project),
r AS (DELETE FROM ~.replayed r USING e WHERE r.event = e.uid)
DELETE FROM ~.event v USING e WHERE v.uid = e.uid`

	moreEndedSQL = `
SELECT EXISTS (SELECT FROM ~.delivery WHERE finished <= statement_timestamp() - $1::bigint * interval '1 microsecond' AND id < $2)
	OR EXISTS (
		SELECT FROM ~.delivery_default WHERE finished <= statement_timestamp() - $1::bigint * interval '1 microsecond' AND id >= $2)`
)

// Prune deletes deliveries that ended at least age ago: row by row, at most most of them. If age is at least twice
// Options.Partition, it drops whole partitions instead, as soon as all of their time is over; one call then drops one
// partition at most, and counts what was in it in n.
func (s *Store) Prune(ctx context.Context, age time.Duration, most int) (n int, more bool, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, false, err
	}
	defer s.leave()
	n, did, below, err := s.retire(ctx, age)
	if err != nil || did {
		return n, did, err
	}
	err = s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		// Nobody counts what is in a partition, to drop it, while rows go.
		if _, err := tx.Exec(ctx, s.sql(noRetireSQL)); err != nil {
			return err
		}
		var ids, events []uid
		var keys, projects []string
		n, more = 0, false
		_, err := collect(ctx, tx, s.sql(endedSQL), func(row pgx.CollectableRow) (none struct{}, err error) {
			var id, event uid
			var key, project string
			err = row.Scan(&id, &event, &key, &project)
			ids, events = append(ids, id), append(events, event)
			keys, projects = append(keys, key), append(projects, project)
			return none, err
		}, age.Microseconds(), most, below)
		if err != nil || len(ids) == 0 {
			return err
		}
		if err := tx.QueryRow(ctx, s.sql(pruneSQL), ids).Scan(&n); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, s.sql(pruneEventsSQL), events, keys, projects); err != nil {
			return err
		}
		// Fewer than most may be for want of a key's lock; if it is for all of them, the next pass comes back.
		return tx.QueryRow(ctx, s.sql(moreEndedSQL), age.Microseconds(), below).Scan(&more)
	})
	return n, more, err
}
