package postgres

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What runs often is sent as one batch, so that it costs one round trip, in either protocol: the beginning of the
// transaction with its settings, the statements, and the commit where nothing hangs on what they return.
//
// The settings end with the transaction. Where rows come and go by the thousand every minute, what the planner knows of
// a table is always old: told that there are few rows it reads all of a webhook and sorts them, and what a bitmap or a
// whole table is read for meets the dead rows again and again, while a plain scan of an index marks them. So it is held
// to indexes, and to one plan for each statement; no statement gains by being compiled. A client whose machine or
// network is gone, or that does not read, is found out by TCP: no limit of the server's holds while it sends, or waits for
// the rest of a batch. One that stops in the middle of sending a batch, and stays there, is not.
const (
	beginSQL     = `BEGIN ISOLATION LEVEL READ COMMITTED`
	beginReadSQL = `BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY`
	commitSQL    = `COMMIT`

	settingsSQL = `
SELECT set_config('synchronous_commit', 'on', true), set_config('statement_timeout', $1::text, true), set_config('lock_timeout', $2::text, true),
	set_config('idle_in_transaction_session_timeout', $1::text, true), set_config('jit', 'off', true),
	set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
	set_config('plan_cache_mode', 'force_generic_plan', true), set_config('tcp_user_timeout', $1::text, true),
	set_config('tcp_keepalives_idle', '10', true), set_config('tcp_keepalives_interval', '5', true)`

	// readSettingsSQL leaves the plans to the planner: the filters of queries are of many kinds.
	readSettingsSQL = `SELECT set_config('statement_timeout', $1::text, true), set_config('jit', 'off', true)`
)

// noLimit is a timeout as the server takes it.
const noLimit = "0"

func (s *Store) limit() string { return milliseconds(s.o.Timeout) }

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// pipe runs what queue adds in a transaction of the store's own, in one round trip, and again if its connection breaks:
// it is for what may happen twice.
func (s *Store) pipe(ctx context.Context, queue func(*pgx.Batch)) error {
	return s.send(ctx, func(b *pgx.Batch) {
		b.Queue(beginSQL)
		b.Queue(settingsSQL, s.limit(), noLimit)
		queue(b)
		b.Queue(commitSQL)
	})
}

// ask runs one query that changes nothing, in one round trip.
func ask[T any](ctx context.Context, s *Store, text string, scan pgx.RowToFunc[T], args ...any) (list []T, err error) {
	err = s.send(ctx, func(b *pgx.Batch) {
		b.Queue(beginReadSQL)
		b.Queue(readSettingsSQL, s.limit())
		b.Queue(s.sql(text), args...).Query(into(&list, scan))
		b.Queue(commitSQL)
	})
	return list, err
}

// into collects the rows of a statement of a batch.
func into[T any](list *[]T, scan pgx.RowToFunc[T]) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*list, err = pgx.CollectRows(rows, scan)
		return err
	}
}

func (s *Store) send(ctx context.Context, queue func(*pgx.Batch)) error {
	return s.retry(ctx, func(ctx context.Context) (committing bool, err error) {
		return false, s.connected(ctx, func(conn *pgxpool.Conn) error {
			var b pgx.Batch
			queue(&b)
			return conn.SendBatch(ctx, &b).Close()
		})
	})
}

// connected runs f on a connection, and rolls back what f leaves open.
func (s *Store) connected(ctx context.Context, f func(*pgxpool.Conn) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if err := f(conn); err != nil {
		if pg := conn.Conn().PgConn(); pg.IsClosed() || pg.TxStatus() == 'I' {
			return err
		}
		// A context that has ended must not keep the transaction from ending.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, rolled := conn.Exec(ctx, "ROLLBACK")
		return errors.Join(err, ignoreBroken(rolled))
	}
	return nil
}

// opening is a transaction of the store's own, whose beginning goes with its first statement.
type opening struct {
	s        *Store
	conn     *pgxpool.Conn
	patience time.Duration // with locks; 0: as long as the transaction may take
	begun    bool
}

// open runs f in a transaction that opens with the first statement, and again as write does. If there is no statement
// there is no transaction. Once the commit is sent its answer is waited for, whatever becomes of ctx.
func (s *Store) open(ctx context.Context, patience time.Duration, f func(ctx context.Context, o *opening) error) error {
	return s.retry(ctx, func(ctx context.Context) (committing bool, err error) {
		err = s.connected(ctx, func(conn *pgxpool.Conn) error {
			o := &opening{s: s, conn: conn, patience: patience}
			if err := f(ctx, o); err != nil || !o.begun {
				return err
			}
			committing = true
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Timeout)
			defer cancel()
			_, err := conn.Exec(ctx, commitSQL)
			return err
		})
		return committing, err
	})
}

// each runs a statement and scans its rows.
func (o *opening) each(ctx context.Context, sql string, row func(scan func(...any) error) error, args ...any) error {
	if o.begun {
		return direct{o.conn}.each(ctx, sql, row, args...)
	}
	o.begun = true
	var b pgx.Batch
	b.Queue(beginSQL)
	b.Queue(settingsSQL, o.s.limit(), milliseconds(o.patience))
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error { return eachRow(rows, row) })
	return o.conn.SendBatch(ctx, &b).Close()
}
