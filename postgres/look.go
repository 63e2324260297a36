package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// lookSQL finds the webhooks that have something, behind number $1 and then from the first on to it, by hopping from
	// one to the next in the index: where it lands is what is due first. How many are waiting plays no part. It ends when
	// it has met $3 that have something due, claimed or not. The row of webhook 0 says whether lanes are to be looked at.
	lookSQL = `
WITH RECURSIVE a(hook, due, n) AS (
	(SELECT hook, due, (due <= statement_timestamp())::int FROM ~.open WHERE NOT parked AND hook > $1 ORDER BY hook, due, id LIMIT 1)
	UNION ALL
	SELECT o.hook, o.due, a.n + (o.due <= statement_timestamp())::int FROM a CROSS JOIN LATERAL (
		SELECT hook, due FROM ~.open WHERE NOT parked AND hook > a.hook ORDER BY hook, due, id LIMIT 1) o
	WHERE a.n < $3),
b(hook, due, n) AS (
	(SELECT hook, due, (due <= statement_timestamp())::int FROM ~.open
	WHERE NOT parked AND hook <= $1 AND (SELECT coalesce(max(n), 0) FROM a) < $3 ORDER BY hook, due, id LIMIT 1)
	UNION ALL
	SELECT o.hook, o.due, b.n + (o.due <= statement_timestamp())::int FROM b CROSS JOIN LATERAL (
		SELECT hook, due FROM ~.open WHERE NOT parked AND hook > b.hook AND hook <= $1 ORDER BY hook, due, id LIMIT 1) o
	WHERE b.n < $3),
w AS (SELECT * FROM a UNION ALL SELECT * FROM b)
SELECT 0::bigint, '', NULL::bigint, NULL::bigint, NULL::bigint, EXISTS (SELECT FROM ~.lane_look)::int
UNION ALL` + sightSQL

	// afterSQL looks at the webhooks in $1 again.
	afterSQL = `
WITH w AS (SELECT hook, NULL::timestamptz AS due, 0 AS n FROM unnest($1::bigint[]) x(hook))` + sightSQL

	// sightSQL returns of each webhook how many claims it has room for, NULL for any number, when what is not claimed is
	// due next, and when the first claim of it is over: in microseconds, less than 1 if that is so now.
	sightSQL = `
SELECT w.hook, coalesce(h.id, ''), h.room - l.n,
	CASE WHEN f.due IS NOT NULL THEN (extract(epoch FROM greatest(f.due, h.not_before) - statement_timestamp()) * 1000000)::bigint END,
	(extract(epoch FROM l.until - statement_timestamp()) * 1000000)::bigint, w.n
FROM w LEFT JOIN LATERAL (
	SELECT h.id, h.not_before, least(nullif(h.hold_window, 0), coalesce(nullif(h.max_in_flight, 0), nullif($2::int, 0))) AS room
	FROM ~.hook h WHERE h.no = w.hook AND h.state = 0 AND NOT h.deleted LIMIT 1) h ON true
CROSS JOIN LATERAL (
	SELECT count(*) AS n, coalesce(array_agg(id), '{}') AS ids, min(until) AS until FROM ~.lease WHERE hook = w.hook) l
CROSS JOIN LATERAL (
	SELECT CASE WHEN h.id IS NULL THEN NULL WHEN l.n = 0 AND w.due IS NOT NULL THEN w.due ELSE (
		SELECT o.due FROM ~.open o WHERE o.hook = w.hook AND NOT o.parked AND o.id <> ALL (l.ids) ORDER BY o.due, o.id LIMIT 1) END
	LIMIT 1) f(due)`

	// onlyChoresSQL is what a look says, for the webhook of one delivery.
	onlyChoresSQL = `
SELECT o.hook, EXISTS (SELECT FROM ~.lease l WHERE l.hook = o.hook AND l.until <= statement_timestamp()), EXISTS (SELECT FROM ~.lane_look)
FROM ~.open o WHERE o.id = $1`

	// overSQL forgets claims whose lease is over, of webhooks whose rows holdSQL has locked before, and ends what was
	// canceled while they lasted. Without that lock it could miss a Change that still finds the lease live.
	overSQL = `
WITH l AS (
	DELETE FROM ~.lease WHERE (hook, id) IN (
		SELECT hook, id FROM ~.lease
		WHERE hook = ANY ((SELECT string_to_array(current_setting('postrider.held'), ',')::bigint[])::bigint[])
			AND until <= statement_timestamp() ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)
	RETURNING id),
o AS MATERIALIZED (
	SELECT o.*, 3 AS next, NULL::timestamptz AS due2, o.attempts AS attempts2, o.last_code AS code2, o.last_class AS class2,
		o.last_error AS error2, o.last_took AS took2, false AS ok, false AS bad
	FROM l JOIN ~.open o USING (id) JOIN ~.hook h ON h.no = o.hook AND (o.canceled OR h.deleted)
	ORDER BY o.id FOR UPDATE OF o),
` + endsSQL + `
SELECT (SELECT count(*) FROM l), (SELECT count(*) FROM look)`
)

// sight is a webhook that has something.
type sight struct {
	no   int64
	id   string // "" if nothing may be claimed of it
	room *int64 // claims that it may have beside those it has; nil: any number
	in   *int64 // microseconds until something of it is due; nil: all is claimed, or nothing may be
	end  *int64 // microseconds until the first claim of it is over; nil: there is none
	n    int    // webhooks with something due that lookSQL has met so far
	late bool   // another process was claiming of it at its turn
}

func scanSight(row pgx.CollectableRow) (w sight, err error) {
	return w, row.Scan(&w.no, &w.id, &w.room, &w.in, &w.end, &w.n)
}

// few is how many webhooks with something due a look is content with, unless the caller has room for more; if the caller can
// take of none of them, it goes on to many times as many.
const few = 128

// lanesWait is how soon to look again at lanes that were locked.
const lanesWait = 100 * time.Millisecond

// look returns webhooks that have something, in their turn: all, if whole, else at least one of which c can take. Before
// that it does what has to be done before a Claim: see tidy.
func (s *Store) look(ctx context.Context, c *claiming) (list []sight, whole bool, err error) {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	tidied := false
	for most := max(few, c.r.Max); ; {
		if err := s.pipe(ctx, func(b *pgx.Batch) {
			b.Queue(s.sql(lookSQL), last, c.r.MaxInFlight, most).Query(into(&list, scanSight))
		}); err != nil {
			return nil, false, err
		}
		var over []int64
		lanes := false
		whole = true
		for _, w := range list {
			switch {
			case w.no == 0:
				lanes = w.n > 0
			case w.end != nil && *w.end <= 0:
				over = append(over, w.no)
			}
			whole = whole && (w.no == 0 || w.n < most)
		}
		if !tidied && (lanes || len(over) > 0) {
			if tidied, err = true, s.tidy(ctx, over, lanes); err != nil {
				return nil, false, err
			}
			continue
		}
		if lanes { // somebody else has locked them, for a moment or for long
			c.wait = min(c.wait, lanesWait)
		}
		list = slices.DeleteFunc(list, func(w sight) bool { return w.no == 0 })
		slices.SortFunc(list, func(a, b sight) int { // those behind the last one that had a turn go first
			if (a.no > last) != (b.no > last) {
				return cmp.Compare(b.no, a.no)
			}
			return cmp.Compare(a.no, b.no)
		})
		if whole || slices.ContainsFunc(list, c.takes) {
			return list, whole, nil
		}
		most *= 16
	}
}

// tidy lets go what claims of some webhooks have held for too long, and then, if there is any, the next of lanes.
func (s *Store) tidy(ctx context.Context, over []int64, lanes bool) error {
	for n := int64(0); len(over) > 0; {
		if err := s.pipe(ctx, func(b *pgx.Batch) {
			b.Queue(s.sql(holdSQL), over, nil)
			b.Queue(s.sql(overSQL)).QueryRow(func(row pgx.Row) error {
				var looks int64
				err := row.Scan(&n, &looks)
				lanes = lanes || looks > 0
				return err
			})
		}); err != nil {
			return err
		}
		if n == 0 { // no more, or somebody else is at it
			break
		}
	}
	if lanes {
		s.lookAtLanes(ctx)
	}
	return nil
}

// takeSeen returns what keepSeen was given, once.
func (s *Store) takeSeen() (list []sight, each int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, s.seen = s.seen, nil
	return list, s.seenEach
}

// keepSeen keeps webhooks that had something, and what each is to give at a time, for the next Claim.
func (s *Store) keepSeen(list []sight, each int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.seenEach = list, each
}
