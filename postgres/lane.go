package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// The next of a lane.
//
// Whoever enters a lane holds its row's lock until the end of the transaction, which may be the caller's and long, so
// that nothing that ends a delivery may wait for it. It leaves a mark in lane_look instead, with the end itself. Then,
// and at every Claim while there are marks, the lanes that can be locked are looked at: the least turn that is open is
// let go. A lane that is locked keeps its mark. The look is a statement of its own after the lock: its snapshot holds
// all who entered before.
const (
	marksSQL = `SELECT no, hook, lane FROM ~.lane_look WHERE no > $1 ORDER BY no LIMIT $2 FOR UPDATE SKIP LOCKED`

	// The lanes that are there, and of them those that are locked now.
	lockLanesSQL = `
WITH n AS (SELECT DISTINCT * FROM unnest($1::bigint[], $2::uuid[]) n(hook, lane)),
k AS (
	SELECT l.hook, l.lane FROM ~.lane l JOIN n USING (hook, lane) ORDER BY 1, 2 FOR UPDATE OF l SKIP LOCKED)
SELECT l.hook, l.lane, k.hook IS NOT NULL FROM ~.lane l JOIN n USING (hook, lane) LEFT JOIN k USING (hook, lane)`

	promoteSQL = `
WITH x AS MATERIALIZED (
	SELECT n.hook, n.lane, (SELECT min(o.turn) FROM ~.open o WHERE o.hook = n.hook AND o.lane = n.lane) AS turn
	FROM unnest($1::bigint[], $2::uuid[]) n(hook, lane)),
go AS (
	UPDATE ~.open o SET parked = false FROM x WHERE o.hook = x.hook AND o.lane = x.lane AND o.turn = x.turn AND o.parked
	RETURNING o.hook),
moved AS (UPDATE ~.lane l SET head = x.turn FROM x WHERE l.hook = x.hook AND l.lane = x.lane AND l.head <> x.turn),
over AS (DELETE FROM ~.lane l USING x WHERE l.hook = x.hook AND l.lane = x.lane AND x.turn IS NULL),
counted AS (INSERT INTO ~.tally (hook, at, parked) SELECT hook, statement_timestamp(), -count(*) FROM go GROUP BY hook),
unmarked AS (DELETE FROM ~.lane_look WHERE no = ANY($3))
SELECT FROM go`
)

type place struct {
	hook int64
	lane uid
}

// lookAtLanes lets the next of each marked lane go. It is not told to anybody that it fails: the marks stay, and the next
// Claim looks again.
func (s *Store) lookAtLanes(ctx context.Context) {
	for last, more := int64(0), true; more; {
		last, more = s.lookAtSome(ctx, last)
	}
}

// marksMost is how many marks are looked at in one transaction.
const marksMost = 1000

// lookAtSome looks at marks behind one, and returns the last of them. Those that stay, of lanes that are locked, do not
// hide those behind them.
func (s *Store) lookAtSome(ctx context.Context, after int64) (last int64, more bool) {
	err := s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		marks := map[place][]int64{}
		seen := 0
		var hooks []int64
		var lanes []uid
		_, err := collect(ctx, tx, s.sql(marksSQL), func(row pgx.CollectableRow) (none struct{}, err error) {
			var no int64
			var p place
			err = row.Scan(&no, &p.hook, &p.lane)
			if marks[p] == nil {
				hooks, lanes = append(hooks, p.hook), append(lanes, p.lane)
			}
			marks[p] = append(marks[p], no)
			last = no
			seen++
			return none, err
		}, after, marksMost)
		if more = seen == marksMost; err != nil || seen == 0 {
			return err
		}
		var free []place
		_, err = collect(ctx, tx, s.sql(lockLanesSQL), func(row pgx.CollectableRow) (none struct{}, err error) {
			var p place
			var locked bool
			err = row.Scan(&p.hook, &p.lane, &locked)
			if locked {
				free = append(free, p)
			} else {
				delete(marks, p)
			}
			return none, err
		}, hooks, lanes)
		if err != nil {
			return err
		}
		hooks, lanes = nil, nil
		for _, p := range free {
			hooks, lanes = append(hooks, p.hook), append(lanes, p.lane)
		}
		var nos []int64
		for _, list := range marks { // of lanes that are locked, and of those that are no more
			nos = append(nos, list...)
		}
		_, err = tx.Exec(ctx, s.sql(promoteSQL), hooks, lanes, nos)
		return err
	})
	return last, more && err == nil
}
