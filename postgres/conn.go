package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/postrider/postrider"
)

// tries is how often a transaction is begun again that the server gave up, or whose connection broke, before its end.
const tries = 8

// errUnknown: the answer to a commit was lost, or an error.
var errUnknown = errors.New("the outcome is unknown")

// work is what is done in a transaction.
type work func(ctx context.Context, tx pgx.Tx) error

// write runs f in a transaction of the store's own, and again if that is sure to have left nothing behind. A commit
// whose answer was lost is an error: what became of it is unknown.
func (s *Store) write(ctx context.Context, f work) error {
	return s.transact(ctx, "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on", true, f)
}

// read runs f in a transaction that sees one state of the database.
func (s *Store) read(ctx context.Context, f work) error {
	return s.transact(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", false, f)
}

func (s *Store) transact(ctx context.Context, begin string, writes bool, f work) error {
	// A process that stands still between two statements must not keep its locks from all others.
	begin += "; SET LOCAL jit = off; SET LOCAL statement_timeout = " + s.limit() + "; SET LOCAL idle_in_transaction_session_timeout = " + s.limit() +
		"; SET LOCAL tcp_user_timeout = " + s.limit() + "; SET LOCAL tcp_keepalives_idle = 10; SET LOCAL tcp_keepalives_interval = 5"
	return s.retry(ctx, func(ctx context.Context) (committing bool, err error) {
		committing, err = s.once(ctx, begin, f)
		return committing && writes, err
	})
}

// retry runs f, which is to end within Options.Timeout, until it is done or may have been.
func (s *Store) retry(ctx context.Context, f func(ctx context.Context) (committing bool, err error)) (err error) {
	for n := range tries {
		timed, cancel := context.WithTimeout(ctx, s.o.Timeout)
		var committing bool
		committing, err = f(timed)
		over := timed.Err() != nil
		cancel()
		if err == nil {
			return nil
		}
		if over || !again(err, committing) || !pause(ctx, n) {
			if committing {
				err = fmt.Errorf("%w: %w", errUnknown, err)
			}
			break
		}
	}
	return failure(ctx, err)
}

func (s *Store) once(ctx context.Context, begin string, f work) (committing bool, err error) {
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
	if err != nil {
		return false, err
	}
	if err := f(ctx, tx); err != nil {
		// A context that has ended must not keep the transaction from ending.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return false, errors.Join(err, ignoreBroken(tx.Rollback(ctx)))
	}
	return true, tx.Commit(ctx)
}

// ignoreBroken drops the error of a rollback on a connection that is gone: the server has rolled back.
func ignoreBroken(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return err
	}
	return nil
}

// again reports whether a transaction that failed is sure to have left nothing behind, and may go better now.
func again(err error, committing bool) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		switch server.Code {
		case "40001", "40P01": // serialization failure, deadlock
			return true
		case "57P01", "57P02", "57P03", "08006", "08003": // shut down, crashed, starting; connection failure
			return !committing
		}
		return false
	}
	if committing || errors.Is(err, postrider.ErrInvalid) || own(err) {
		return false
	}
	return true // the connection broke before the commit was sent
}

// pause waits before the next try; it returns false if there is none.
func pause(ctx context.Context, n int) bool {
	if n == tries-1 {
		return false
	}
	t := time.NewTimer(time.Millisecond << n)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// own reports whether an error is an answer of the contract's, not the database's.
func own(err error) bool {
	for _, target := range []error{
		postrider.ErrNotFound, postrider.ErrExists, postrider.ErrConflict, postrider.ErrInvalid, postrider.ErrClosed, errStale,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// failure returns what a caller is told of an error of the database's.
func failure(ctx context.Context, err error) error {
	var server *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errUnknown):
		return fmt.Errorf("%w: %w", postrider.ErrStore, err)
	case ctx.Err() != nil:
		return ctx.Err()
	case own(err):
		return err
	case errors.As(err, &server) && server.Code == "53100":
		return fmt.Errorf("%w: %w", postrider.ErrFull, err)
	}
	return fmt.Errorf("%w: %w", postrider.ErrStore, err)
}

// collect runs a query of one row a result.
func collect[T any](ctx context.Context, q querier, sql string, scan pgx.RowToFunc[T], args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// storable reports whether a text can be in a column at all; what cannot is nowhere.
func storable(texts ...string) bool {
	for _, t := range texts {
		if !utf8.ValidString(t) || strings.IndexByte(t, 0) >= 0 {
			return false
		}
	}
	return true
}

// uid is a UUID as pgx takes it; the zero value is NULL.
type uid = pgtype.UUID

// newUID returns a new UUIDv7. Those of one process ascend.
func newUID() uid { return uid{Bytes: uuid.Must(uuid.NewV7()), Valid: true} }

// parseUID returns the UUID that String gave for the text.
func parseUID(text string) (uid, bool) {
	u, err := uuid.Parse(text)
	if err != nil || u.String() != text {
		return uid{}, false
	}
	return uid{Bytes: u, Valid: true}, true
}

// textOf returns the UUID as text, "" for NULL.
func textOf(u uid) string {
	if !u.Valid {
		return ""
	}
	return uuid.UUID(u.Bytes).String()
}

// when returns an instant of the server's, zero for NULL and -infinity.
func when(t pgtype.Timestamptz) time.Time {
	if !t.Valid || t.InfinityModifier != pgtype.Finite {
		return time.Time{}
	}
	return t.Time.UTC()
}

// moment is an instant as pgx takes it, -infinity for zero.
func moment(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: t, Valid: true}
}
