package postgres

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/postrider/postrider"
)

// Tx returns an Enqueuer in the caller's transaction: what it stores commits or rolls back with it. Nobody is told of
// the commit: this process looks for it every 20 ms for two seconds, other processes and later commits are
// found within Options.Poll. Events with an OrderKey, or for an Ordered webhook, lock their lane until the transaction
// ends: others that enter it wait. It is for one goroutine, as the transaction is.
func (s *Store) Tx(tx pgx.Tx) postrider.Enqueuer { return enqueuer{s, direct{tx}} }

// SQLTx is Tx for a transaction of database/sql, on any driver for PostgreSQL.
func (s *Store) SQLTx(tx *sql.Tx) postrider.Enqueuer { return enqueuer{s, std{tx}} }

type enqueuer struct {
	s *Store
	q enquirer
}

func (e enqueuer) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	if err := e.s.enter(ctx); err != nil {
		return nil, err
	}
	defer e.s.leave()
	receipts, err := e.s.enqueue(ctx, e.q, items)
	if err != nil {
		return nil, failure(ctx, err)
	}
	e.s.expect()
	return receipts, nil
}

// std is an enquirer on database/sql. Lists go as text, which every driver takes.
type std struct{ tx *sql.Tx }

func (d std) each(ctx context.Context, query string, row func(scan func(...any) error) error, args ...any) error {
	texts := make([]any, len(args))
	for i, arg := range args {
		text, err := literal(arg)
		if err != nil {
			return err
		}
		texts[i] = text
	}
	rows, err := d.tx.QueryContext(ctx, query, texts...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// types is only read.
var types = pgtype.NewMap()

// literal returns a list as the server reads it from text.
func literal(arg any) (any, error) {
	var oid uint32
	switch arg := arg.(type) {
	case string:
		return arg, nil
	case []string:
		oid = pgtype.TextArrayOID
	case []int64:
		oid = pgtype.Int8ArrayOID
	case []bool:
		oid = pgtype.BoolArrayOID
	case []uid:
		oid = pgtype.UUIDArrayOID
	case [][]byte:
		oid = pgtype.ByteaArrayOID
	default:
		return nil, fmt.Errorf("%w: no text for %T", postrider.ErrStore, arg)
	}
	text, err := types.Encode(oid, pgtype.TextFormatCode, arg, nil)
	if err != nil || text == nil {
		return "{}", err
	}
	return string(text), nil
}
