package postgres_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/postgres"
)

// settings returns the options of a new schema as the environment wants them: see pool.
func settings(t testing.TB) postgres.Options {
	t.Helper()
	o := fresh(t)
	o.PollOnly = os.Getenv("POSTRIDER_POSTGRES_WAKE") == "poll"
	return o
}

// anotherPool returns a pool of its own on the same server, as another process has one.
func anotherPool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	need(t)
	p, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}
