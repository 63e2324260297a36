// Package postgres is a postrider.Store on PostgreSQL, for many processes that share one database.
//
// The pool is the caller's: the store never opens or closes it. Everything lives in one schema, which Migrate makes.
// Instants are the server's. Events can be stored in the caller's own transaction: see Store.Tx and Store.SQLTx.
package postgres

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
)

// Options are the settings of a Store. The zero value works in production.
type Options struct {
	// Schema is where everything is kept: 1 to 63 of [a-z0-9_], not beginning with a digit; "postrider" if empty.
	Schema string
	// PollOnly does without LISTEN and NOTIFY, as behind PgBouncer: what another process stores is found within Poll.
	PollOnly bool
	// Poll is how often Wait returns without having been told, give or take a fifth; 1 s if zero. It bounds how late
	// the commit of a caller's own transaction is noticed.
	Poll time.Duration
	// Timeout bounds each transaction of the store's own, its statements on the server as well, and each query; 30 s if zero.
	Timeout time.Duration
	// Partition is how much time a partition of the history covers: whole hours, up to 31 days; a day if zero. What is
	// older than Prune's age is dropped by whole partitions if the age is at least twice as long, else deleted row by
	// row. It holds for partitions that are made from then on; Migrate makes the first ones by the day.
	Partition time.Duration
	// Logger is told when partitions cannot be made or dropped, which an operator should look at; slog.Default() if nil.
	Logger *slog.Logger
	// UnsafeNoFsync accepts a server that runs with fsync off, which loses or corrupts data when its machine fails.
	UnsafeNoFsync bool
}

// Store is a postrider.Store on PostgreSQL.
type Store struct {
	pool   *pgxpool.Pool
	o      Options
	schema string   // quoted
	texts  sync.Map // statements by their text with ~ for the schema
	hooks  audience
	emits  group
	bell   bell

	use    sync.RWMutex // held for reading by calls under way, for writing by Close
	shut   bool         // guarded by use
	closed chan struct{}

	rollUpGap, coarsenGap time.Duration // see chores
	parts                 parts         // see partition.go

	mu                  sync.Mutex        // guards what follows
	last                int64             // the webhook that had the last turn in a Claim
	seen                []sight           // webhooks that the last Claim saw and had no room for
	depth               map[int64]depth   // of webhooks that gave all of their share: see share.go
	seenEach            int               // what each of them is to give at a time
	versions            map[int64]version // see known.go
	rolledUp, coarsened time.Time         // when this process last tried to
}

var _ postrider.Store = (*Store)(nil)

// New returns a store on the pool, whose schema must have been migrated. It asks the server for its settings, and
// refuses one older than 14, one with fsync off unless told, and a schema of another version than this package's.
func New(pool *pgxpool.Pool, o Options) (*Store, error) {
	schema, err := quoted(o.Schema)
	if err != nil {
		return nil, err
	}
	if o.Poll < 0 || o.Timeout < 0 {
		return nil, fmt.Errorf("postgres: Options.Poll is %v and Options.Timeout %v, want 0 or more", o.Poll, o.Timeout)
	}
	if o.Partition < 0 || o.Partition > 31*24*time.Hour || o.Partition%time.Hour != 0 {
		return nil, fmt.Errorf("postgres: Options.Partition is %v, want whole hours, up to 31 days", o.Partition)
	}
	o.Partition, o.Logger = cmp.Or(o.Partition, 24*time.Hour), cmp.Or(o.Logger, slog.Default())
	o.Poll, o.Timeout = cmp.Or(o.Poll, time.Second), cmp.Or(o.Timeout, 30*time.Second)
	s := &Store{pool: pool, o: o, schema: schema, closed: make(chan struct{}),
		rollUpGap: 5 * time.Second, coarsenGap: 10 * time.Minute, coarsened: time.Now(),
		parts: parts{gap: time.Minute, idle: time.Minute}}
	s.bell.ring = make(chan struct{}, 1)
	ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
	defer cancel()
	if err := s.checkServer(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) checkServer(ctx context.Context) error {
	var version int
	var fsync string
	err := s.pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('fsync')`).Scan(&version, &fsync)
	switch {
	case err != nil:
		return fmt.Errorf("postgres: %w", err)
	case version < 140000:
		return fmt.Errorf("postgres: the server is version %d, want 14 or later", version/10000)
	case fsync != "on" && !s.o.UnsafeNoFsync:
		return fmt.Errorf("postgres: the server has fsync %s: what it acknowledges may be lost", fsync)
	}
	have, err := schemaVersion(ctx, s.pool, s.schema)
	if err != nil {
		return err
	}
	return checkVersion(have)
}

// quoted returns the name of the schema as SQL has it.
func quoted(schema string) (string, error) {
	schema = cmp.Or(schema, "postrider")
	bad := len(schema) > 63 || schema[0] >= '0' && schema[0] <= '9'
	for i := range len(schema) {
		c := schema[i]
		bad = bad || (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_'
	}
	if bad {
		return "", fmt.Errorf("postgres: Options.Schema is %q, want 1 to 63 of [a-z0-9_], not beginning with a digit", schema)
	}
	return pgx.Identifier{schema}.Sanitize(), nil
}

// sql returns a statement in which ~ stands for the schema.
func (s *Store) sql(text string) string {
	if v, ok := s.texts.Load(text); ok {
		return v.(string)
	}
	v := strings.ReplaceAll(text, "~", s.schema)
	s.texts.Store(text, v)
	return v
}

// enter begins a call: it ends with leave. It fails if the context has ended or the store is closed.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.use.RLock()
	if s.shut {
		s.use.RUnlock()
		return postrider.ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.use.RUnlock() }

// Close ends the store's use. The pool stays open.
func (s *Store) Close() error {
	s.use.Lock()
	defer s.use.Unlock()
	if s.shut {
		return nil
	}
	s.shut = true
	close(s.closed)
	s.bell.close()
	return nil
}
