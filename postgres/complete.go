package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
)

// completeSQL records outcomes. Deleting the lease is the fence: whoever does not find it under its token, in its time,
// comes too late. Then the delivery's row is locked, so that it is seen as a Change has left it. It returns the place in
// the call of each outcome that it recorded, its webhook, and whether lanes are to be looked at.
const completeSQL = `
WITH r AS MATERIALIZED (
	SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bigint[], $5::bool[], $6::smallint[], $7::smallint[],
		$8::bytea[], $9::bigint[], $10::bytea[]) WITH ORDINALITY
	AS r(id, token, became, again, bad_one, code, class, error, took, body, place)),
l AS (
	DELETE FROM ~.lease l USING r WHERE l.id = r.id AND l.token = r.token AND l.until > statement_timestamp()
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
SELECT place, hook, (SELECT count(*) FROM look) > 0, statement_timestamp() FROM o ORDER BY place`

const lockHooksSQL = `SELECT no, body FROM ~.hook WHERE no = ANY($1) AND NOT deleted ORDER BY no FOR UPDATE`

// recorded is an outcome that was recorded.
type recorded struct {
	place, hook int64
	look        bool
	now         time.Time
}

// Complete records what became of claims.
func (s *Store) Complete(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
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
	list, args := columns(outcomes)
	var done []recorded
	err := s.open(ctx, 0, func(ctx context.Context, o *opening) error {
		done = done[:0]
		if err := o.each(ctx, s.sql(completeSQL), func(scan func(...any) error) error {
			var r recorded
			err := scan(&r.place, &r.hook, &r.look, &r.now)
			done = append(done, r)
			return err
		}, args...); err != nil || !changes {
			return err
		}
		return s.applyChanges(ctx, o.conn, list, done)
	})
	if err != nil {
		return 0, err
	}
	if len(done) > 0 {
		if done[0].look {
			s.lookAtLanes(ctx)
		}
		s.wake(ctx)
	}
	return len(done), nil
}

// columns returns the outcomes that may be recorded, the first of each claim, and the arguments of completeSQL.
func columns(outcomes []postrider.Outcome) (list []*postrider.Outcome, args []any) {
	var (
		id, token          []uid
		became, code, kind []*int16
		again, took        []int64
		bad                []bool
		text, body         [][]byte
	)
	seen := map[[2]uid]bool{}
	for i := range outcomes {
		o := &outcomes[i]
		delivery, ok := parseUID(o.DeliveryID)
		fence, ok2 := parseUID(o.Token)
		if k := [2]uid{delivery, fence}; !ok || !ok2 || seen[k] {
			continue
		} else {
			seen[k] = true
		}
		list = append(list, o)
		id, token = append(id, delivery), append(token, fence)
		a, status := o.Attempt, (*int16)(nil)
		if a == nil {
			a = &postrider.Attempt{}
		} else {
			n := int16(o.Status)
			status = &n
		}
		c, k := int16(a.Code), int16(a.Class)
		b, _ := a.AppendBinary(nil) // it never fails
		became, code, kind = append(became, status), append(code, &c), append(kind, &k)
		again, took = append(again, o.RetryIn.Microseconds()), append(took, a.FinishedAt.UnixMicro()-a.StartedAt.UnixMicro())
		bad, text, body = append(bad, a.Failed), append(text, []byte(a.Error)), append(body, b)
	}
	return list, []any{id, token, became, again, bad, code, kind, text, took, body}
}

// applyChanges does to webhooks what the outcomes that were recorded say, in their order.
func (s *Store) applyChanges(ctx context.Context, conn *pgxpool.Conn, list []*postrider.Outcome, done []recorded) error {
	var nos []int64
	for _, r := range done {
		if list[r.place-1].Webhook != nil && !slices.Contains(nos, r.hook) {
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
		if c, w := list[r.place-1].Webhook, hooks[r.hook]; c != nil && w != nil {
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
