package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
	"github.com/postrider/postrider/postgres/internal/pgtest"
	"github.com/postrider/postrider/storetest"
)

var (
	// The pool of the server for all tests; nil if there is none. POSTRIDER_POSTGRES_PROTOCOL=simple makes it speak the
	// simple protocol, POSTRIDER_POSTGRES_WAKE=poll makes TestStore do without notifications.
	pool   *pgxpool.Pool
	unsafe bool
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	server, err := pgtest.Start()
	if errors.Is(err, pgtest.ErrNone) {
		return m.Run()
	}
	if err == nil {
		unsafe = server.Unsafe()
		defer func() {
			if err := server.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
		var c *pgxpool.Config
		if c, err = pgxpool.ParseConfig(server.DSN); err == nil {
			c.MaxConns = 20
			if os.Getenv("POSTRIDER_POSTGRES_PROTOCOL") == "simple" {
				c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
			}
			pool, err = pgxpool.NewWithConfig(context.Background(), c)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer pool.Close()
	return m.Run()
}

// need skips the test, loudly, if there is no server; with POSTRIDER_POSTGRES_REQUIRED set it fails.
func need(t testing.TB) {
	t.Helper()
	if pool == nil && os.Getenv("POSTRIDER_POSTGRES_REQUIRED") != "" {
		t.Fatal(pgtest.ErrNone)
	}
	if pool == nil {
		t.Skip("SKIPPED, NOTHING IS TESTED HERE: ", pgtest.ErrNone)
	}
}

var schemas atomic.Int64

// fresh returns the options of a new schema, which is dropped with the test.
func fresh(t testing.TB) postgres.Options {
	t.Helper()
	return freshIn(t, fmt.Sprintf("test_%d_%d", os.Getpid(), schemas.Add(1)))
}

func freshIn(t testing.TB, schema string) postgres.Options {
	t.Helper()
	need(t)
	o := postgres.Options{
		Schema:        schema,
		UnsafeNoFsync: unsafe,
		Poll:          100 * time.Millisecond,
	}
	require.NoError(t, postgres.Migrate(t.Context(), pool, o))
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP SCHEMA "+o.Schema+" CASCADE")
		require.NoError(t, err)
	})
	return o
}

func open(t testing.TB, o postgres.Options) *postgres.Store {
	t.Helper()
	s, err := postgres.New(pool, o)
	require.NoError(t, err)
	return s
}

// handle is a store whose schema is known.
type handle struct {
	*postgres.Store
	o postgres.Options
}

// Claim does the chores first, which are Wait's, so that every test does them in between.
func (h handle) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	h.Chores(ctx)
	return h.Store.Claim(ctx, r)
}

func harness(edit func(*postgres.Options)) storetest.Harness {
	another := func(t *testing.T, o postgres.Options) postrider.Store {
		s := open(t, o)
		s.SetRollUp(50 * time.Millisecond)
		return handle{s, o}
	}
	return storetest.Harness{
		Open: func(t *testing.T, _ func() time.Time) postrider.Store {
			o := fresh(t)
			edit(&o)
			return another(t, o)
		},
		Advance: func(t *testing.T, s postrider.Store, d time.Duration) {
			require.NoError(t, s.(handle).Age(t.Context(), d))
		},
		Reopen: func(t *testing.T, s postrider.Store, _ func() time.Time) postrider.Store {
			require.NoError(t, s.Close())
			return another(t, s.(handle).o)
		},
		Begin: func(t *testing.T, s postrider.Store) storetest.Tx {
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			return pgxTx{s.(handle).Tx(tx), tx}
		},
		Shared: func(t *testing.T, s postrider.Store, _ func() time.Time) postrider.Store {
			return another(t, s.(handle).o)
		},
	}
}

type pgxTx struct {
	postrider.Enqueuer
	tx pgx.Tx
}

func (t pgxTx) Commit() error   { return t.tx.Commit(context.Background()) }
func (t pgxTx) Rollback() error { return t.tx.Rollback(context.Background()) }

func TestStore(t *testing.T) {
	need(t)
	pollOnly := os.Getenv("POSTRIDER_POSTGRES_WAKE") == "poll"
	storetest.Run(t, harness(func(o *postgres.Options) { o.PollOnly = pollOnly }))
}
