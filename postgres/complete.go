package postgres

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
)

// Deleting the lease is the fence: whoever does not find it under its token, in its time, comes too late. Then the
// delivery's row is locked, so that it is seen as a Change has left it. So a call may happen twice, and where nothing hangs
// on what it returns the commit goes with it: if the answer is lost, the second time it records nothing.
const (
	// deliveredSQL records that fresh deliveries were delivered, which stands whatever became of them or their webhooks
	// meanwhile. That is what most outcomes say, at half the price: of a fresh delivery much is known, and each part of a
	// statement costs the server something before it sees the first row. The row is deleted, and locked by that. The attempt
	// goes into the delivery's row, unless it is long: see maxTried.
	deliveredSQL = `
WITH l AS (
	DELETE FROM ~.lease l USING unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::smallint[], $5::bigint[], $6::bytea[])
		AS r(hook, id, token, code, took, body)
	WHERE l.hook = r.hook AND l.id = r.id AND l.token = r.token AND l.until > statement_timestamp()
	RETURNING r.id, r.code, r.took, r.body),
o AS (
	DELETE FROM ~.open o USING l WHERE o.id = l.id
	RETURNING o.id, o.event, o.hook, o.created, o.test, o.replay_of, o.project, o.event_id, o.type, l.code, l.took, l.body),
done AS (
	INSERT INTO ~.delivery (id, event, hook, created, finished, last_took, attempts, last_code, last_class, status, test, replay_of,
		project, event_id, type, last_error, tried)
	SELECT id, event, hook, created, statement_timestamp(), took, 1, code, 0, 2, test, replay_of, project, event_id, type, '', body
	FROM o),
counted AS (
	INSERT INTO ~.tally_first (at, hooks)
	SELECT statement_timestamp(), hooks FROM (SELECT array_agg(hook) AS hooks FROM o) a WHERE hooks IS NOT NULL)
SELECT count(*) FROM o`

	// completeSQL records outcomes of all kinds. It returns the place in the call of each that it recorded, its webhook, and
	// whether lanes are to be looked at.
	completeSQL = `
WITH r AS MATERIALIZED (
	SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::smallint[], $5::bigint[], $6::bytea[], $7::int[],
		$8::smallint[], $9::bigint[], $10::bool[], $11::smallint[], $12::bytea[])
	AS r(hook, id, token, code, took, body, place, became, again, bad_one, class, error)),
l AS (
	DELETE FROM ~.lease l USING r WHERE l.hook = r.hook AND l.id = r.id AND l.token = r.token AND l.until > statement_timestamp()
	RETURNING r.*),
o AS MATERIALIZED (
	SELECT o.*, r.place, r.body, r.became,
		CASE WHEN (o.canceled OR h.deleted) AND r.became IS DISTINCT FROM 2 THEN 3 ELSE r.became END AS next,
		statement_timestamp() + r.again * interval '1 microsecond' AS due2,
		o.attempts + (r.became IS NOT NULL)::int AS attempts2,
		CASE WHEN r.became IS NOT NULL AND r.code <> 0 THEN r.code ELSE o.last_code END AS code2,
		CASE WHEN r.became IS NOT NULL AND r.bad_one THEN r.class ELSE o.last_class END AS class2,
		CASE WHEN r.became IS NOT NULL AND r.bad_one THEN r.error ELSE o.last_error END AS error2,
		CASE WHEN r.became IS NOT NULL THEN r.took ELSE o.last_took END AS took2,
		r.became IS NOT NULL AND NOT r.bad_one AS ok, r.became IS NOT NULL AND r.bad_one AS bad
	FROM l r JOIN ~.open o ON o.id = r.id JOIN ~.hook h ON h.no = o.hook
	ORDER BY o.id FOR UPDATE OF o),
tried AS (
	INSERT INTO ~.attempt (delivery, number, body) SELECT id, attempts2, body FROM o WHERE became IS NOT NULL ORDER BY id),
` + endsSQL + `
SELECT place, hook, (SELECT count(*) FROM look) > 0, statement_timestamp() FROM o`

	lockHooksSQL = `SELECT no, body FROM ~.hook WHERE no = ANY($1) AND NOT deleted ORDER BY no FOR UPDATE`
)

// maxTried is how long an attempt may be to lie in the delivery's row, so that those who read the rows of many deliveries,
// and few attempts, do not read far more.
const maxTried = 512

// recorded is an outcome that was recorded.
type recorded struct {
	place, hook int64 // its place in the call
	look        bool
	now         time.Time
}

// Complete records what became of claims.
func (s *Store) Complete(ctx context.Context, outcomes []postrider.Outcome) (n int, err error) {
	changes := false
	for i := range outcomes {
		if err := outcomes[i].Validate(); err != nil {
			return 0, fmt.Errorf("outcomes[%d]: %w", i, err)
		}
		changes = changes || outcomes[i].Webhook != nil
	}
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	fresh, rest := sorted(outcomes, changes)
	looks := false
	if changes {
		n, looks, err = s.completeAndChange(ctx, outcomes, &rest)
	} else {
		var done []recorded
		err = s.pipe(ctx, func(b *pgx.Batch) {
			n, done = 0, nil
			if len(fresh.id) > 0 {
				b.Queue(s.sql(deliveredSQL), fresh.args()...).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
			}
			if len(rest.id) > 0 {
				b.Queue(s.sql(completeSQL), rest.args()...).Query(into(&done, scanRecorded))
			}
		})
		n, looks = n+len(done), looksAtLanes(done)
	}
	if err != nil {
		return 0, err
	}
	if looks {
		s.lookAtLanes(ctx)
	}
	if n > 0 {
		s.wake(ctx)
	}
	return n, nil
}

// completeAndChange records outcomes of which some change their webhooks.
func (s *Store) completeAndChange(ctx context.Context, outcomes []postrider.Outcome, all *columns) (n int, looks bool, err error) {
	var done []recorded
	err = s.open(ctx, 0, func(ctx context.Context, o *opening) error {
		done = done[:0]
		if len(all.id) == 0 {
			return nil
		}
		if err := o.each(ctx, s.sql(completeSQL), func(scan func(...any) error) error {
			var r recorded
			err := scan(&r.place, &r.hook, &r.look, &r.now)
			done = append(done, r)
			return err
		}, all.args()...); err != nil {
			return err
		}
		slices.SortFunc(done, func(a, b recorded) int { return cmp.Compare(a.place, b.place) })
		return s.applyChanges(ctx, o.conn, outcomes, done)
	})
	return len(done), looksAtLanes(done), err
}

func scanRecorded(row pgx.CollectableRow) (r recorded, err error) {
	return r, row.Scan(&r.place, &r.hook, &r.look, &r.now)
}

func looksAtLanes(done []recorded) bool { return len(done) > 0 && done[0].look }

// columns is outcomes as the statements take them.
type columns struct {
	place             []int32 // in the call
	hook, took, again []int64
	id, token         []uid
	code, class       []int16
	became            []*int16
	bad               []bool
	body, text        [][]byte
}

// args is the arguments of completeSQL, or of deliveredSQL, which takes less.
func (c *columns) args() []any {
	list := []any{c.hook, c.id, c.token, c.code, c.took, c.body}
	if len(c.became) > 0 {
		list = append(list, c.place, c.became, c.again, c.bad, c.class, c.text)
	}
	return list
}

// sorted returns the outcomes that may be recorded, the first of each claim, in the order of IDs, which is that of locks:
// those that say that a fresh delivery was delivered, and the rest, or all.
func sorted(outcomes []postrider.Outcome, all bool) (fresh, rest columns) {
	type claim struct{ id, token uid }
	type entry struct {
		claim
		place int
		hook  int64
		fresh bool
	}
	list, seen := make([]entry, 0, len(outcomes)), make(map[claim]bool, len(outcomes))
	for i := range outcomes {
		e := entry{place: i}
		var ok, ok2 bool
		e.id, ok = parseUID(outcomes[i].DeliveryID)
		e.token, e.hook, e.fresh, ok2 = parseToken(outcomes[i].Token)
		if !ok || !ok2 || seen[e.claim] {
			continue
		}
		seen[e.claim] = true
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int { return bytes.Compare(a.id.Bytes[:], b.id.Bytes[:]) })
	for _, e := range list {
		o := &outcomes[e.place]
		a, c := o.Attempt, &rest
		var body []byte
		if a != nil {
			body, _ = a.AppendBinary(nil) // it never fails
		}
		if !all && e.fresh && a != nil && o.Status == postrider.StatusDelivered && len(body) <= maxTried {
			c = &fresh
		}
		if c == &rest {
			var status *int16
			if a != nil {
				n := int16(o.Status)
				status = &n
			} else {
				a = &postrider.Attempt{}
			}
			c.became, c.again = append(c.became, status), append(c.again, o.RetryIn.Microseconds())
			c.bad, c.class, c.text = append(c.bad, a.Failed), append(c.class, int16(a.Class)), append(c.text, []byte(a.Error))
		}
		c.place, c.hook = append(c.place, int32(e.place)), append(c.hook, e.hook)
		c.id, c.token = append(c.id, e.id), append(c.token, e.token)
		c.code, c.body = append(c.code, int16(a.Code)), append(c.body, body)
		c.took = append(c.took, a.FinishedAt.UnixMicro()-a.StartedAt.UnixMicro())
	}
	return fresh, rest
}

// applyChanges does to webhooks what the outcomes that were recorded say, in their order.
func (s *Store) applyChanges(ctx context.Context, conn *pgxpool.Conn, outcomes []postrider.Outcome, done []recorded) error {
	var nos []int64
	for _, r := range done {
		if outcomes[r.place].Webhook != nil && !slices.Contains(nos, r.hook) {
			nos = append(nos, r.hook)
		}
	}
	if len(nos) == 0 {
		return nil
	}
	hooks := map[int64]*postrider.Webhook{}
	_, err := collect(ctx, conn, s.sql(lockHooksSQL), func(row pgx.CollectableRow) (none struct{}, err error) {
		var no int64
		var body []byte
		if err := row.Scan(&no, &body); err != nil {
			return none, err
		}
		hooks[no] = &postrider.Webhook{}
		return none, hooks[no].UnmarshalBinary(body)
	}, nos)
	if err != nil {
		return err
	}
	for _, r := range done {
		if c, w := outcomes[r.place].Webhook, hooks[r.hook]; c != nil && w != nil {
			c.Apply(w, r.now.UTC())
		}
	}
	var b pgx.Batch
	for no, w := range hooks {
		args, err := hookRow(no, w)
		if err != nil {
			return err
		}
		b.Queue(s.sql(updateHookSQL), args...)
	}
	return conn.SendBatch(ctx, &b).Close()
}
