package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/postrider/postrider"
)

// SetRollUp makes the store roll counts up every gap, and minutes to hours never.
func (s *Store) SetRollUp(gap time.Duration) { s.rollUpGap, s.coarsenGap = gap, 1<<62 }

// Shares returns what webhooks that gave all of their share may give at their next turn.
func (s *Store) Shares() (list []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.depth {
		list = append(list, d.next)
	}
	return list
}

// Closing reports whether Close waits for calls that are under way, or has ended.
func (s *Store) Closing() bool {
	if s.use.TryRLock() {
		defer s.use.RUnlock()
		return s.shut
	}
	return true
}

// Chores does what Wait does before it waits.
func (s *Store) Chores(ctx context.Context)              { s.chores(ctx) }
func (s *Store) RollUp(ctx context.Context) (int, error) { return s.rollUp(ctx) }
func (s *Store) Coarsen(ctx context.Context) error       { return s.coarsen(ctx) }

// Age makes everything in the schema older by d.
func (s *Store) Age(ctx context.Context, d time.Duration) error {
	if err := s.age(ctx, d); err != nil {
		return err
	}
	// Every row of the schema is dead once now.
	for _, table := range []string{"open", "delivery"} {
		if _, err := s.pool.Exec(ctx, s.sql("VACUUM (TRUNCATE off) ~."+table)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) age(ctx context.Context, d time.Duration) error {
	return s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		text := ""
		for _, c := range []struct{ table, columns string }{
			{"open", "due created"}, {"lease", "until"}, {"delivery", "created finished"}, {"tally", "at due"}, {"tally_first", "at"},
		} {
			sep := "UPDATE ~." + c.table + " SET "
			var a, b string
			n, _ := fmt.Sscan(c.columns, &a, &b)
			for _, column := range []string{a, b}[:n] {
				text += fmt.Sprintf("%s%s = %[2]s - interval '%[3]d microseconds'", sep, column, d.Microseconds())
				sep = ", "
			}
			text += ";"
		}
		for _, c := range []string{"retry SET due = due", "rate SET at = at"} {
			// By a detour, on which no row meets another that has not moved yet.
			text += fmt.Sprintf("UPDATE ~.%s - interval '%d microseconds' - interval '1000 years';", c, d.Microseconds())
			text += fmt.Sprintf("UPDATE ~.%s + interval '1000 years';", c)
		}
		if _, err := tx.Conn().PgConn().Exec(ctx, s.sql(text)).ReadAll(); err != nil {
			return err
		}
		type row struct {
			no   int64
			hook postrider.Webhook
		}
		rows, err := collect(ctx, tx, s.sql(`SELECT no, body FROM ~.hook`), func(r pgx.CollectableRow) (v row, err error) {
			var body []byte
			if err := r.Scan(&v.no, &body); err != nil {
				return v, err
			}
			return v, v.hook.UnmarshalBinary(body)
		})
		for i := range rows {
			w := &rows[i].hook
			for _, t := range []*time.Time{&w.NotBefore, &w.FailingSince, &w.CreatedAt, &w.UpdatedAt} {
				if !t.IsZero() {
					*t = t.Add(-d)
				}
			}
			if err := s.putHook(ctx, tx, rows[i].no, w); err != nil {
				return err
			}
		}
		return err
	})
}

// SetPartitions makes the store look after partitions at every Wait and Prune, or never if gap is negative.
func (s *Store) SetPartitions(gap time.Duration) {
	s.parts.gap, s.parts.idle = gap, 0
	if gap < 0 {
		s.parts.gap = 1 << 62
		s.parts.tried = time.Now()
	}
}

// LookedForPartitions has the store have looked for what to drop in vain so long ago, and not look again.
func (s *Store) LookedForPartitions(ago time.Duration) {
	s.parts.looked, s.parts.idle = time.Now().Add(-ago), 1<<62
}

func (s *Store) AddPartitions(ctx context.Context, gap time.Duration) (int, error) {
	return s.addPartitions(ctx, gap)
}

// PageSQL is the statement of a page of deliveries.
func (s *Store) PageSQL(q postrider.DeliveryQuery, n int) (string, []any) {
	w := walk{filter: newFilter(&q)}
	text, args := w.statement(n)
	return s.sql(text), args
}

// LookupSQL are the statements that find one event and one delivery by ID, $1.
func (s *Store) LookupSQL() map[string]string {
	return map[string]string{
		"delivery": s.sql(deliverySQL), "event": s.sql(`SELECT body FROM ~.event WHERE uid = $1`),
	}
}

// AgeIDs makes everything older by d, the IDs of events and deliveries too: they move to the partitions of that time.
func (s *Store) AgeIDs(ctx context.Context, d time.Duration) error {
	text := ""
	for _, c := range []string{
		"event uid", "event_key uid", "replayed event", "open id", "open event", "open replay_of", "lease id", "delivery id",
		"delivery event", "delivery replay_of", "attempt delivery",
	} {
		var table, column string
		_, _ = fmt.Sscan(c, &table, &column)
		text += fmt.Sprintf(`UPDATE ~.%s SET %[2]s = (lpad(to_hex(('x' || left(translate(%[2]s::text, '-', ''), 12))::bit(48)::bigint - %[3]d),
			12, '0') || right(translate(%[2]s::text, '-', ''), 20))::uuid WHERE %[2]s IS NOT NULL;`, table, column, d.Milliseconds())
	}
	err := s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().Exec(ctx, s.sql(text)).ReadAll()
		return err
	})
	if err != nil {
		return err
	}
	return s.age(ctx, d)
}
